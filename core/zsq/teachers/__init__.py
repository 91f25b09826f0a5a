"""A network becomes a frozen teacher: weights read without running code, claims checked, stages and head found."""

from __future__ import annotations

from zsq.teachers._making import announced, read_sidecar, teacher_from, to_channels_last
from zsq.teachers._weights import fingerprint, load_into, read_weights

__all__ = ["announced", "fingerprint", "load_into", "read_sidecar", "read_weights", "teacher_from", "to_channels_last"]
