"""The saved student, both ways: ``config.json`` and ``model.safetensors`` as docs/format.md describes them."""

from __future__ import annotations

from zsq.format._files import CONFIG, FORMAT, WEIGHTS, text_of
from zsq.format._network import rebuild, save
from zsq.format._saved import load

__all__ = ["CONFIG", "FORMAT", "WEIGHTS", "load", "rebuild", "save", "text_of"]
