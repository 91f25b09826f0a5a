"""Several evaluators of one run: nobody's figures are lost under another's name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from zsq._run.evaluation import Evaluation


class Counts:
    """Gives out numbers."""

    def __init__(self, **metrics: float) -> None:
        self.metrics, self.details = metrics, {"of": sorted(metrics)}

    def evaluate(self, module: float, ctx: Any) -> dict[str, float]:
        return {name: value + module for name, value in self.metrics.items()}


def test_a_metric_whose_name_is_taken_gets_its_evaluator_s() -> None:
    evaluation = Evaluation({"first": Counts(top1=90, images=10), "second": Counts(top1=80, top5=95, images=20)})
    student, ctx = SimpleNamespace(module=0), SimpleNamespace(teacher=SimpleNamespace(module=1))
    metrics, own = evaluation.both(student, ctx)  # type: ignore[arg-type]
    assert metrics == {"top1": 90, "second.top1": 80, "top5": 95, "images": 20}
    assert own == {"top1": 91, "second.top1": 81, "top5": 96, "images": 21}
    assert evaluation.calibrated(student, ctx) == {"top1": 90, "second.top1": 80, "top5": 95}  # type: ignore[arg-type]
    assert {who: list(found) for who, found in evaluation.details.items()} == {
        "student": ["first", "second"],
        "teacher": ["first", "second"],
    }


def test_one_that_compares_is_asked_once_and_not_before_tuning() -> None:
    evaluation = Evaluation({"agreement": Counts(agreement=99)}, {"agreement"})
    student, ctx = SimpleNamespace(module=0), SimpleNamespace(teacher=SimpleNamespace(module=1))
    assert evaluation.both(student, ctx) == ({"agreement": 99}, {})  # type: ignore[arg-type]
    assert evaluation.calibrated(student, ctx) == {}  # type: ignore[arg-type]
    assert evaluation.details == {"student": {"agreement": {"of": ["agreement"]}}, "teacher": {}}
