"""What happens in a run, as values: broadcast to every ``zsq_event`` implementation, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """Base of all events; ``seconds`` since the run began."""

    seconds: float


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins. ``plan`` is the composed plan as plain values."""

    plan: Mapping[str, Any]
    folder: Path | None = None


@dataclass(frozen=True)
class PhaseStarted(Event):
    """A phase begins: ``teacher``, ``prepare``, ``quantize``, ``calibrate:NAME``, ``tune:NAME``, ``evaluate``, ``export``."""

    phase: str


@dataclass(frozen=True)
class Stepped(Event):
    """One beat of a phase. Metrics may still be tensors on a device: read them as seldom as they are shown."""

    phase: str
    step: int
    total: int
    metrics: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0


@dataclass(frozen=True)
class PhaseEnded(Event):
    """A phase is done; ``stopped`` when the budget or the user ended it early."""

    phase: str
    stopped: bool = False


@dataclass(frozen=True)
class Message(Event):
    """A component says something to the user."""

    text: str


@dataclass(frozen=True)
class RunEnded(Event):
    """A run is done; ``report`` as it stands in ``report.json``."""

    report: Mapping[str, Any]
