"""The evaluators of one run: the student as calibration left it, then student and teacher side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zsq.types import Context, Student

#: What evaluators call the number of images they looked at.
IMAGES = "images"


class Evaluation:
    """Runs evaluators in their order.

    A metric whose name an evaluator before has taken is called ``EVALUATOR.METRIC``; the number of images is the last one's.
    ``details`` is what they had to say beyond numbers, by ``student`` or ``teacher``, then by evaluator.

    Args:
        evaluators: By the name of the component.
    """

    def __init__(self, evaluators: Mapping[str, Any]) -> None:
        self.evaluators = evaluators
        self.details: dict[str, dict[str, Mapping[str, Any]]] = {"student": {}, "teacher": {}}

    def calibrated(self, student: Student, ctx: Context) -> dict[str, float]:
        """Metrics of the student before it is tuned, by the evaluators that draw no batch: the stream goes on as without this."""
        metrics: dict[str, float] = {}
        for name, evaluator in self.evaluators.items():
            if not _compares(evaluator):
                _add(metrics, name, evaluator.evaluate(student.module, ctx))
        metrics.pop(IMAGES, None)
        return metrics

    def both(self, student: Student, ctx: Context) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics of the student, and those of the teacher by the evaluators that do not compare the two."""
        metrics: dict[str, float] = {}
        own: dict[str, float] = {}
        for name, evaluator in self.evaluators.items():
            _add(metrics, name, evaluator.evaluate(student.module, ctx))
            self.details["student"][name] = getattr(evaluator, "details", {})
            if not _compares(evaluator):
                _add(own, name, evaluator.evaluate(ctx.teacher.module, ctx))
                self.details["teacher"][name] = getattr(evaluator, "details", {})
        return metrics, own


def _add(metrics: dict[str, float], evaluator: str, found: Mapping[str, float]) -> None:
    metrics |= {name if name == IMAGES or name not in metrics else f"{evaluator}.{name}": value for name, value in found.items()}


def _compares(evaluator: Any) -> bool:
    """Whether an evaluator holds the student against its teacher, on images that it draws."""
    return bool(getattr(evaluator, "compares", False))
