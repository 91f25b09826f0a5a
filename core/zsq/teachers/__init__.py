"""Makes a frozen teacher of a network: reads weights without running code, checks the input spec, finds stages and head."""

from __future__ import annotations

from zsq.teachers._making import declared, read_sidecar, teacher_from, to_channels_last
from zsq.teachers._weights import fingerprint, load_into, read_weights

__all__ = ["declared", "fingerprint", "load_into", "read_sidecar", "read_weights", "teacher_from", "to_channels_last"]
