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
        optimizers = [(self._optimizer(parameters), o.lr)]
        if ranges:
            optimizers.append((torch.optim.Adam([point.log_range for point in ranges], fused=True), o.range_lr))
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
        points = [point for point in student.acts.values() if self.options.range_lr and hasattr(point, "learn_range")]
        for point in points:
            point.learn_range(True)
        return [point for point in points if getattr(point, "log_range", None) is not None]

    def _optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        o = self.options
        if o.optimizer == "adam":
            return torch.optim.Adam(parameters, o.lr, (o.momentum, 0.999), weight_decay=o.weight_decay, fused=True)
        nesterov = o.nesterov and o.momentum > 0
        return torch.optim.SGD(parameters, o.lr, o.momentum, weight_decay=o.weight_decay, nesterov=nesterov, fused=True)

    def _rate(self, step: int) -> float:
        o = self.options
        if o.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / o.steps))
        if o.schedule == "step":
            return float(o.gamma ** sum(step >= m for m in o.milestones))
        return 1.0


class NoTuning:
    """Leaves the student as calibration left it."""

    def __init__(self, options: Options, ctx: Context) -> None:
        pass

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]], objective: Any) -> Iterator[Beat]:
        yield from ()
