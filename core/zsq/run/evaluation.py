"""The evaluators of one run: the student as calibration left it, then student and teacher side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zsq.types import Context, Student


class Evaluation:
    """Runs evaluators in their order.

    ``details`` is what they had to say beyond numbers, by ``student`` or ``teacher``, then by evaluator.
    """

    def __init__(self, evaluators: Sequence[Any]) -> None:
        self.evaluators = evaluators
        self.details: dict[str, dict[str, Mapping[str, Any]]] = {"student": {}, "teacher": {}}

    def calibrated(self, student: Student, ctx: Context) -> dict[str, float]:
        """Metrics of the student before it is tuned, by the evaluators that draw no batch: the stream goes on as without this."""
        found = [e.evaluate(student.module, ctx) for e in self.evaluators if not _compares(e)]
        return {name: value for metrics in found for name, value in metrics.items() if name != "images"}

    def both(self, student: Student, ctx: Context) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics of the student, and those of the teacher by the evaluators that do not compare the two."""
        metrics: dict[str, float] = {}
        own: dict[str, float] = {}
        for evaluator in self.evaluators:
            name = type(evaluator).__name__.lower()
            metrics |= evaluator.evaluate(student.module, ctx)
            self.details["student"][name] = getattr(evaluator, "details", {})
            if not _compares(evaluator):
                own |= evaluator.evaluate(ctx.teacher.module, ctx)
                self.details["teacher"][name] = getattr(evaluator, "details", {})
        return metrics, own


def _compares(evaluator: Any) -> bool:
    """Whether an evaluator holds the student against its teacher, on images that it draws."""
    return bool(getattr(evaluator, "compares", False))
