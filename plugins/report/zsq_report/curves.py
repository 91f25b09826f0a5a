"""Keeps the metrics of every phase over its steps; long curves are thinned, so that memory stays small."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zsq.events import Event, PhaseEnded, PhaseStarted, RunStarted, Stepped

#: Points of a curve that are kept at least, where there are as many steps, and half of those at most.
POINTS = 240


@dataclass
class Phase:
    """One phase: its curves by metric, points (step, value); those of a generator that the phase does not tell are called
    ``generator NAME``."""

    name: str
    total: int = 0
    steps: int = 0
    stopped: bool = False
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


class Curves:
    """All phases of the current run, in order. A new run replaces the one before."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []

    def hear(self, event: Event) -> None:
        """Handle one event."""
        if isinstance(event, RunStarted):
            self.phases = []
        elif isinstance(event, PhaseStarted):
            self.phases.append(Phase(event.phase))
        elif isinstance(event, PhaseEnded) and self.phases:
            self.phases[-1].stopped = event.stopped
        elif isinstance(event, Stepped) and self.phases:
            self._step(self.phases[-1], event)

    def _step(self, phase: Phase, event: Stepped) -> None:
        phase.total, phase.steps = event.total, event.step
        if event.step % max(1, event.total // POINTS) and event.step not in (1, event.total):
            return
        found = _numbers(event.metrics)
        made = {name: value for name, value in _numbers(event.synth).items() if name not in found}
        for name, value in {**found, **{f"generator {name}": value for name, value in made.items()}}.items():
            phase.curves.setdefault(name, []).append((event.step, value))


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Those that are one finite number; a tensor is read here."""
    found = {}
    for name, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            continue
        if math.isfinite(number):
            found[str(name)] = number
    return found
