"""Tuner ``clips``: activation ranges and BatchNorm affine parameters by gradient, every weight where the quantizer put it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from zsq._builtin.options import ClipsOptions
from zsq.training import Progress, batch_norms, cosine, descend, learn_ranges
from zsq.types import Batch, Beat, Context, Student, Trace


class Clips(Progress):
    """Adam on the logarithm of every activation range and on the scale and shift of every BatchNorm layer.

    A few numbers per channel: a pool of some hundred images does not over-fit them. Weights are frozen at their codes before
    the first step, so that a grid chosen with care (rounding by SQuant, bits by layer) stays as it is, and no step puts
    weights on their grids anew. The result is the last step.
    """

    def __init__(self, options: ClipsOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]], objective: Any) -> Iterator[Beat]:
        o = self.options
        for point in student.weights.values():
            point.freeze()
        module = student.module.eval().requires_grad_(False)
        ranges, moved = learn_ranges(student, o.range_lr)
        if affine := [p.requires_grad_() for norm in batch_norms(module).values() if o.lr for p in norm.parameters()]:
            moved = [*moved, (torch.optim.Adam(affine, o.lr, fused=True), o.lr)]
        if moved:
            yield from descend(self.ctx, student, stream, objective, o.steps, moved, ranges, self._rate, self)

    def _rate(self, step: float) -> float:
        return cosine(step, self.options.steps)
