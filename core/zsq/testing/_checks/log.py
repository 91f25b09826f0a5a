"""Checks for logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zsq.events import Event
from zsq.testing import _exercise as exercise
from zsq.testing._kit import Case


@dataclass(frozen=True)
class Unknown(Event):
    """An event that only a later version of zsq sends."""

    what: Any = None


def check_hears_run_after_run(case: Case) -> None:
    """It takes every event of a small run, with any numbers, and a second run continues what the first one wrote."""
    from zsq.testing.world import make_teacher

    for _ in range(2):
        exercise.log(case, make_teacher(), 0)


def check_bears_events_of_later_versions(case: Case) -> None:
    """It does not fail on an event of an unknown class with any content."""
    from zsq.testing.world import make_teacher

    exercise.log(case, make_teacher(), 0, more=[Unknown(0.7, object())])
