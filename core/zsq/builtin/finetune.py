"""Tuners: gradient descent of the student on the objective, and none at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from zsq.builtin.options import FinetuneOptions
from zsq.options import Options
from zsq.run.probe import batch_norms
from zsq.types import Batch, Beat, Context, Student, Trace

#: Grids of so many bits or fewer are tuned at the full rate.
_COARSEST = 4


class Finetune:
    """One optimizer over every parameter of the student (weights through the straight-through estimator, BatchNorm affine,
    biases), and Adam over the activation ranges of points that can learn them. The last step is what is kept; nothing is
    selected on the way."""

    def __init__(self, options: FinetuneOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]], objective: Any) -> Iterator[Beat]:
        o = self.options
        module = student.module.eval()
        if o.batch_norm == "train":
            for norm in batch_norms(module).values():
                norm.train()
        parameters = [p for p in module.requires_grad_().parameters() if p.is_floating_point()]
        ranges = self._ranges(student)
        default = default_lr(min((point.bits for point in student.weights.values()), default=_COARSEST))
        optimizers: list[tuple[torch.optim.Optimizer, float]] = [(self._optimizer(parameters), o.lr or default)]
        if ranges:
            range_lr = 100 * default if o.range_lr is None else o.range_lr
            optimizers.append((torch.optim.Adam([point.log_range for point in ranges], fused=True), range_lr))
        try:
            for step in range(o.steps):
                batch, trace = next(stream)
                for optimizer, lr in optimizers:
                    optimizer.param_groups[0]["lr"] = lr * self._rate(step)
                    optimizer.zero_grad(set_to_none=True)
                with torch.enable_grad():
                    loss, metrics = objective(self.ctx.probe(batch, objective.needs, teacher=trace, step=step))
                    loss.backward()
                for optimizer, _ in optimizers:
                    optimizer.step()
                for point in ranges:
                    point.apply_learned()
                yield Beat(step + 1, o.steps, {"loss": loss.detach(), **metrics, **getattr(stream, "metrics", {})})
        finally:
            module.eval().requires_grad_(False)
            for parameter in parameters:
                parameter.grad = None
            for point in ranges:
                point.learn_range(False)

    def _ranges(self, student: Student) -> list[Any]:
        """The activation points whose range is to be learned, each with its parameter."""
        points = [point for point in student.acts.values() if self.options.range_lr != 0 and hasattr(point, "learn_range")]
        for point in points:
            point.learn_range(True)
        return [point for point in points if getattr(point, "log_range", None) is not None]

    def _optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        o, lr = self.options, self.options.lr or 1.0  # the loop sets the rate before every step
        if o.optimizer == "adam":
            return torch.optim.Adam(parameters, lr, (o.momentum, 0.999), weight_decay=o.weight_decay, fused=True)
        nesterov = o.nesterov and o.momentum > 0
        return torch.optim.SGD(parameters, lr, o.momentum, weight_decay=o.weight_decay, nesterov=nesterov, fused=True)

    def _rate(self, step: int) -> float:
        o = self.options
        if o.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / o.steps))
        if o.schedule == "step":
            return float(o.gamma ** sum(step >= m for m in o.milestones))
        return 1.0


def default_lr(bits: int) -> float:
    """The learning rate for the finest grid there is among the weights: steps of 2^-bits ask for updates of that order."""
    return 1e-4 * 2.0 ** min(0, _COARSEST - bits)


class NoTuning:
    """Leaves the student as calibration left it."""

    def __init__(self, options: Options, ctx: Context) -> None:
        pass

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]], objective: Any) -> Iterator[Beat]:
        yield from ()
