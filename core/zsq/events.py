"""What happens in a run, as values: broadcast to every ``zsq_event`` implementation, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Event", "Message", "PhaseEnded", "PhaseStarted", "Publishing", "RunEnded", "RunStarted", "Stepped"]


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
    """One beat of a phase. Metrics may still be tensors on a device: read them as seldom as they are shown.

    ``synth`` holds those of the last generator step, where a generator learns meanwhile.
    """

    phase: str
    step: int
    total: int
    metrics: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0
    synth: Mapping[str, Any] = field(default_factory=dict)


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
class Publishing(Event):
    """The files of a run are written, and are about to be put in their place together; what is added to ``folder`` comes with them.

    Args:
        report: As it stands in ``report.json``.
        folder: Where the run was made; not where it will stand.
        ctx: The run's :class:`zsq.types.Context`, with the teacher, the frozen student, and ``sampler`` where there are images.
        details: What evaluators have to say beyond numbers, by ``student`` or ``teacher``, then by evaluator.
    """

    report: Mapping[str, Any]
    folder: Path
    ctx: Any
    details: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunEnded(Event):
    """A run is done; ``report`` as it stands in ``report.json``."""

    report: Mapping[str, Any]
