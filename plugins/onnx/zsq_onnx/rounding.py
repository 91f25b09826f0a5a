"""Calibrator ``integer-bias``: the rounding of biases that the file needs at 8 bits, done in the student before it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from zsq.options import Options
from zsq.types import Batch, Beat, Context, Student
from zsq_onnx.emit import Emitter


class IntegerBias:
    """Moves each bias (or that of the BatchNorm behind the layer) by at most half of s_act * s_weight. Draws no images.

    It reads scales, so it comes after whatever sets ranges, changes weights or BatchNorm; a tuner behind it undoes it.
    """

    def __init__(self, options: Options, ctx: Context) -> None:
        self.ctx = ctx

    @torch.no_grad()
    def fit(self, student: Student, stream: Iterator[tuple[Batch, Any]]) -> Iterator[Beat]:
        """One beat.

        Raises:
            ZsqError: When the student holds something that has no translation to ONNX.
        """
        emitter = Emitter(student.module, self.ctx.teacher.inputs.shape)  # type: ignore[arg-type]
        emitter()
        for owner, change in emitter.roundings:
            if isinstance(owner.bias, torch.Tensor):
                owner.bias += torch.as_tensor(change).to(owner.bias)
        yield Beat(1, 1)
