"""Evaluates a run: the student after calibration, then student and teacher side by side, and the diversity of the images."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from zsq._run.report import IMAGES
from zsq._run.stream import Stream
from zsq.protocols import Detailed, Evaluator, Pooled
from zsq.types import Batch, Context, InputSpec, Student

#: Images whose diversity is measured, and the number for images above 64 x 64 pixels.
COUNT, LARGE = 512, 64


class Evaluation:
    """Runs evaluators in their order.

    If two evaluators return a metric of the same name, the second one is called ``EVALUATOR.METRIC``; of the number of images, the last
    counts. ``details`` are the results beyond numbers, by ``student`` or ``teacher``, then by evaluator.

    Args:
        evaluators: By the name of the component.
        comparing: The names of those that compare the student with its teacher, on images that they draw.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator], comparing: Collection[str] = ()) -> None:
        self.evaluators, self.comparing = evaluators, frozenset(comparing)
        self.details: dict[str, dict[str, Mapping[str, Any]]] = {"student": {}, "teacher": {}}

    def calibrated(self, student: Student, ctx: Context) -> dict[str, float]:
        """Metrics of the student before tuning, from the evaluators that draw no batch, so that the stream stays as it is."""
        metrics: dict[str, float] = {}
        for name, evaluator in self.evaluators.items():
            if name not in self.comparing:
                _add(metrics, name, evaluator.evaluate(student.module, ctx))
        metrics.pop(IMAGES, None)
        return metrics

    def both(self, student: Student, ctx: Context) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics of the student, and those of the teacher from the evaluators that do not compare the two."""
        metrics: dict[str, float] = {}
        own: dict[str, float] = {}
        for name, evaluator in self.evaluators.items():
            _add(metrics, name, evaluator.evaluate(student.module, ctx))
            self.details["student"][name] = evaluator.details if isinstance(evaluator, Detailed) else {}
            if name not in self.comparing:
                _add(own, name, evaluator.evaluate(ctx.teacher.module, ctx))
                self.details["teacher"][name] = evaluator.details if isinstance(evaluator, Detailed) else {}
        return metrics, own


def images_to_measure(stream: Stream, inputs: InputSpec) -> Iterator[Batch]:
    """The images that the student trained on, from the pool if there is one, otherwise new ones batch by batch."""
    size = stream.batch_size
    count = COUNT if inputs.shape[-1] * inputs.shape[-2] <= 64 * 64 else LARGE
    pool = stream.synth.pool if isinstance(stream.synth, Pooled) else ()
    if not len(pool):
        for first in range(0, count, size):
            yield stream.sample(min(size, count - first))
        return
    drawn = stream.sample(min(count, len(pool))).inputs  # one draw, so that no image comes twice
    yield from (Batch(part) for part in torch.split(drawn, size))


def _add(metrics: dict[str, float], evaluator: str, found: Mapping[str, float]) -> None:
    metrics |= {name if name == IMAGES or name not in metrics else f"{evaluator}.{name}": value for name, value in found.items()}
