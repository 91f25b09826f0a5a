"""The evaluators of one run: the student as calibration left it, then student and teacher side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from zsq.protocols import Detailed, Evaluator
from zsq.types import Context, Student

#: What evaluators call the number of images they looked at.
IMAGES = "images"


class Evaluation:
    """Runs evaluators in their order.

    A metric whose name an evaluator before has taken is called ``EVALUATOR.METRIC``; the number of images is the last one's.
    ``details`` is what they had to say beyond numbers, by ``student`` or ``teacher``, then by evaluator.

    Args:
        evaluators: By the name of the component.
        comparing: The names of those that hold the student against its teacher, on images that they draw.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator], comparing: Collection[str] = ()) -> None:
        self.evaluators, self.comparing = evaluators, frozenset(comparing)
        self.details: dict[str, dict[str, Mapping[str, Any]]] = {"student": {}, "teacher": {}}

    def calibrated(self, student: Student, ctx: Context) -> dict[str, float]:
        """Metrics of the student before it is tuned, by the evaluators that draw no batch: the stream goes on as without this."""
        metrics: dict[str, float] = {}
        for name, evaluator in self.evaluators.items():
            if name not in self.comparing:
                _add(metrics, name, evaluator.evaluate(student.module, ctx))
        metrics.pop(IMAGES, None)
        return metrics

    def both(self, student: Student, ctx: Context) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics of the student, and those of the teacher by the evaluators that do not compare the two."""
        metrics: dict[str, float] = {}
        own: dict[str, float] = {}
        for name, evaluator in self.evaluators.items():
            _add(metrics, name, evaluator.evaluate(student.module, ctx))
            self.details["student"][name] = evaluator.details if isinstance(evaluator, Detailed) else {}
            if name not in self.comparing:
                _add(own, name, evaluator.evaluate(ctx.teacher.module, ctx))
                self.details["teacher"][name] = evaluator.details if isinstance(evaluator, Detailed) else {}
        return metrics, own


def _add(metrics: dict[str, float], evaluator: str, found: Mapping[str, float]) -> None:
    metrics |= {name if name == IMAGES or name not in metrics else f"{evaluator}.{name}": value for name, value in found.items()}
