"""Checks for evaluators."""

from __future__ import annotations

import math

from zsq.testing import _exercise as exercise
from zsq.testing._kit import Case


def check_metrics_are_named_numbers(case: Case) -> None:
    """It gives at least one metric, each a finite number under a name."""
    from zsq.testing.world import make_teacher

    metrics = exercise.evaluate(case, make_teacher(), 0)
    assert metrics, "no metric"
    for name, value in metrics.items():
        assert isinstance(name, str) and isinstance(value, (int, float)) and math.isfinite(value), f"metric {name!r} is {value!r}"
