"""The training loop of tuners, learning-rate schedules, and learned activation ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import torch

from zsq.points import LearnsRange
from zsq.protocols import Objective, Stream
from zsq.types import Batch, Beat, Context, Student, Trace

#: An optimizer with one parameter group, and its initial learning rate.
Moved = tuple[torch.optim.Optimizer, float]


class Progress:
    """The resumable state of a tuner: its number of finished steps and the state of its optimizers.

    A tuner that inherits from it and passes itself to :func:`descend` is ``Resumable``.
    """

    done = 0
    _optimizers: Sequence[torch.optim.Optimizer] = ()
    _loaded: Mapping[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "optimizers": [optimizer.state_dict() for optimizer in self._optimizers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loaded = state

    def take_up(self, optimizers: Sequence[torch.optim.Optimizer]) -> int:
        """Load the restored state into new optimizers; returns the number of finished steps."""
        self._optimizers = optimizers
        if self._loaded is not None:
            for optimizer, state in zip(optimizers, self._loaded["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            self.done, self._loaded = self._loaded["done"], None
        return self.done


def descend(ctx: Context, student: Student, stream: Iterator[tuple[Batch, Trace | None]], objective: Objective, steps: int,
            moved: Sequence[Moved], ranges: Sequence[LearnsRange] = (), rate: Callable[[float], float] | None = None,
            progress: Progress | None = None) -> Generator[Beat, None, None]:  # fmt: skip
    """``steps`` steps of every optimizer on the objective. At the end, also after an error, the student is in eval mode without gradients.

    Args:
        ctx: Its probe runs teacher and student.
        student: The student; its trained parameters have ``requires_grad``.
        stream: Batches, with the teacher's trace if there is one.
        objective: The weighted sum of the losses.
        steps: The number of steps.
        moved: Optimizers with their initial learning rates.
        ranges: Activation points with a learned range, see :func:`learn_ranges`.
        rate: The learning-rate schedule: position in [0, ``steps``] to a factor; default: constant.
        progress: Skips the steps before ``progress.done``; for tuners that are ``Resumable``.
    """
    progress = progress or Progress()
    try:
        for step in range(progress.take_up([optimizer for optimizer, _ in moved]), steps):
            batch, trace = next(stream)
            share = rate(ctx.schedule(step, steps)) if rate is not None else 1.0
            for optimizer, lr in moved:
                optimizer.param_groups[0]["lr"] = lr * share
                optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                loss, metrics = objective(ctx.probe(batch, objective.needs, teacher=trace, step=step))
                loss.backward()  # type: ignore[no-untyped-call]
            for optimizer, _ in moved:
                optimizer.step()
            for point in ranges:
                point.apply_learned()
            progress.done = step + 1
            yield Beat(step + 1, steps, {"loss": loss.detach(), **metrics, **(stream.metrics if isinstance(stream, Stream) else {})})
    finally:
        student.module.eval().requires_grad_(False)
        for parameter in student.module.parameters():
            parameter.grad = None
        for point in ranges:
            point.learn_range(False)


def learn_ranges(student: Student, lr: float) -> tuple[list[LearnsRange], list[Moved]]:
    """The activation points that can learn their range, and Adam for them with learning rate ``lr``; none if ``lr`` is 0."""
    points = [point for point in student.acts.values() if lr and isinstance(point, LearnsRange)]
    for point in points:
        point.learn_range(True)
    learning = [(point, point.log_range) for point in points if point.log_range is not None]
    moved: list[Moved] = [(torch.optim.Adam([log_range for _, log_range in learning], fused=True), lr)] if learning else []
    return [point for point, _ in learning], moved


def cosine(step: float, steps: int) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))
