"""The tuner ``ait``: gradient inundation for the quantized weights, plain SGD for the other parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import torch
from torch import nn

from zsq.grids import WeightPoint
from zsq.protocols import Objective
from zsq.training import Progress, cosine, descend, learn_ranges
from zsq.types import Batch, Beat, Context, Student, Trace
from zsq_ait import AitOptions
from zsq_ait.codes import Layer
from zsq_ait.inundation import Inundation


class Ait(Progress):
    """Every quantized weight moves by :class:`Inundation`, everything else (BatchNorm affine, biases, weights in float) by SGD
    with Nesterov momentum at the same learning rate; no weight decay. Frozen weights do not move. The student of the last step is kept."""

    def __init__(self, options: AitOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]], objective: Objective) -> Iterator[Beat]:
        o = self.options
        layers, others = _split(student.module.eval())
        ranges, moved = learn_ranges(student, o.range_lr)
        inundation = Inundation(layers, o) if layers else None
        if inundation is not None:
            moved.append((inundation, o.lr))
        if others:
            moved.append((torch.optim.SGD(others, o.lr, o.momentum, nesterov=o.momentum > 0, fused=True), o.lr))
        with closing(descend(self.ctx, student, stream, objective, o.steps, moved, ranges, self._rate, self)) as beats:
            for beat in beats:
                shown = {"kappa": inundation.kappa.median()} if inundation is not None else {}
                yield replace(beat, metrics={**beat.metrics, **shown})

    def _rate(self, step: float) -> float:
        o = self.options
        if o.schedule == "cosine":
            return cosine(step, o.steps)
        return float(o.gamma ** sum(step >= m for m in o.milestones)) if o.schedule == "step" else 1.0


def _split(module: nn.Module) -> tuple[list[Layer], list[nn.Parameter]]:
    """The weights that are not frozen, with their points, and the other parameters; enables their gradients."""
    points = {
        weight: point
        for m in module.modules()
        if isinstance(point := getattr(m, "weight_point", None), WeightPoint) and isinstance(weight := m.weight, nn.Parameter)
    }
    layers = [(weight, point) for weight, point in points.items() if not point.frozen]
    others = [p for p in module.parameters() if p.is_floating_point() and p not in points]
    for parameter in [*(weight for weight, _ in layers), *others]:
        parameter.requires_grad_()
    return layers, others
