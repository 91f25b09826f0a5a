"""What tuners share: the loop of gradient steps, the rate that falls, and activation ranges that are learned along."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from zsq.types import Batch, Beat, Context, Student, Trace

#: An optimizer with one group, and its learning rate at the start.
Moved = tuple[torch.optim.Optimizer, float]


def descend(ctx: Context, student: Student, stream: Iterator[tuple[Batch, Trace | None]], objective: Any, steps: int,
            moved: Sequence[Moved], ranges: Sequence[Any], rate: Callable[[int], float]) -> Iterator[Beat]:  # fmt: skip
    """``steps`` steps of every optimizer on the objective; whatever ends it, the student is left in eval mode, without gradients.

    Args:
        ctx: Its probe runs teacher and student.
        student: What is tuned; its parameters that are to take a gradient require one.
        stream: Batches, with what the teacher said of them where it is known.
        objective: Losses.
        steps: At most.
        moved: What moves.
        ranges: Activation points with a learned range, see :func:`learn_ranges`.
        rate: Of the learning rates at the start, by step.
    """
    try:
        for step in range(steps):
            batch, trace = next(stream)
            for optimizer, lr in moved:
                optimizer.param_groups[0]["lr"] = lr * rate(step)
                optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                loss, metrics = objective(ctx.probe(batch, objective.needs, teacher=trace, step=step))
                loss.backward()
            for optimizer, _ in moved:
                optimizer.step()
            for point in ranges:
                point.apply_learned()
            yield Beat(step + 1, steps, {"loss": loss.detach(), **metrics, **getattr(stream, "metrics", {})})
    finally:
        student.module.eval().requires_grad_(False)
        for parameter in student.module.parameters():
            parameter.grad = None
        for point in ranges:
            point.learn_range(False)


def learn_ranges(student: Student, lr: float) -> tuple[list[Any], list[Moved]]:
    """The activation points that can learn their range, and Adam over them at ``lr``; none where ``lr`` is 0."""
    points: list[Any] = [point for point in student.acts.values() if lr and hasattr(point, "learn_range")]
    for point in points:
        point.learn_range(True)
    points = [point for point in points if getattr(point, "log_range", None) is not None]
    return points, [(torch.optim.Adam([point.log_range for point in points], fused=True), lr)] if points else []


def cosine(step: int, steps: int) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))
