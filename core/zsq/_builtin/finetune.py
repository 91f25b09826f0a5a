"""Tuners: gradient descent of the student on the objective, and none at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from zsq._builtin.options import FinetuneOptions
from zsq.grids import LAYERS
from zsq.options import Options
from zsq.training import Progress, batch_norms, cosine, descend, learn_ranges
from zsq.types import Batch, Beat, Context, Student, Trace

#: Grids of at most this many bits are tuned at the full rate.
_COARSEST = 4


class Finetune(Progress):
    """Two optimizers alike over every parameter of the student (weights through the straight-through estimator, BatchNorm affine,
    biases), and Adam over the activation ranges of points that can learn them. The result is the last step; no
    earlier one is selected."""

    def __init__(self, options: FinetuneOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]], objective: Any) -> Iterator[Beat]:
        o = self.options
        module = student.module.eval()
        if o.batch_norm == "train":
            for norm in batch_norms(module).values():
                norm.train()
        parts = _parted(module)  # before ranges have parameters: those move with their own optimizer alone
        default = default_lr(min((point.bits for point in student.weights.values()), default=_COARSEST))
        ranges, moved = learn_ranges(student, 100 * default if o.range_lr is None else o.range_lr)
        lr = o.lr or default
        rates = [lr, lr if o.norm_lr is None else o.norm_lr]
        for parameters, rate in zip(parts, rates, strict=True):
            if parameters and rate:
                for parameter in parameters:
                    parameter.requires_grad_()
                moved.append((self._optimizer(parameters), rate))
        yield from descend(self.ctx, student, stream, objective, o.steps, moved, ranges, self._rate, self)

    def _optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        o, lr = self.options, self.options.lr or 1.0  # the loop sets the rate before every step
        if o.optimizer == "adam":
            return torch.optim.Adam(parameters, lr, (o.momentum, 0.999), weight_decay=o.weight_decay, fused=True)
        nesterov = o.nesterov and o.momentum > 0
        return torch.optim.SGD(parameters, lr, o.momentum, weight_decay=o.weight_decay, nesterov=nesterov, fused=True)

    def _rate(self, step: float) -> float:
        o = self.options
        if o.schedule == "cosine":
            return cosine(step, o.steps)
        if o.schedule == "step":
            return float(o.gamma ** sum(step >= m for m in o.milestones))
        return 1.0


def _parted(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The floating-point parameters but for weights whose codes are final: those of other layers, and those of BatchNorm layers."""
    layers: list[Any] = [m for m in module.modules() if isinstance(m, tuple(LAYERS.values()))]
    final = {id(layer.weight) for layer in layers if layer.weight_point.frozen}
    norms = {id(p) for norm in batch_norms(module).values() for p in norm.parameters()}
    parameters = [p for p in module.parameters() if p.is_floating_point() and id(p) not in final]
    return [p for p in parameters if id(p) not in norms], [p for p in parameters if id(p) in norms]


def default_lr(bits: int) -> float:
    """The default learning rate, from the smallest number of weight bits; it shrinks with the grid's step, 2^-bits."""
    return 1e-4 * 2.0 ** min(0, _COARSEST - bits)


class NoTuning:
    """Leaves the student as calibration left it."""

    def __init__(self, options: Options, ctx: Context) -> None:
        pass

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]], objective: Any) -> Iterator[Beat]:
        yield from ()
