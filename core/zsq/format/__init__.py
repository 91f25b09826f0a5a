"""Saves and loads students: ``config.json`` and ``model.safetensors`` as docs/format.md describes them."""

from __future__ import annotations

from zsq.format._files import CONFIG, FORMAT, WEIGHTS, text_of
from zsq.format._network import rebuild, save
from zsq.format._saved import load
from zsq.format._state import restore_student, structure, student_state

__all__ = ["CONFIG", "FORMAT", "WEIGHTS", "load", "rebuild", "restore_student", "save", "structure", "student_state", "text_of"]
