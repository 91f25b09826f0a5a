"""Exporter ``safetensors``: the student in zsq's own format, which ``zsq.load`` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsq.format import save
from zsq.options import Options
from zsq.types import Context, Student


class Safetensors:
    """Packed integer codes, scales, zero points and configuration, see :func:`zsq.format.save`."""

    def __init__(self, options: Options, ctx: Context) -> None:
        self.ctx = ctx

    def export(self, student: Student, manifest: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write both files.

        Raises:
            ZsqError: If the student is not a graph of known modules, or the disk refuses.
        """
        return save(student, manifest, folder, self.ctx.teacher.inputs if self.ctx.teacher is not None else None)
