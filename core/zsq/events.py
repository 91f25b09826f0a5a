"""The events of a run. Every ``zsq_event`` hook and every listener gets each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Event", "Message", "PhaseEnded", "PhaseStarted", "Publishing", "RunEnded", "RunStarted", "Stepped"]


@dataclass(frozen=True)
class Event:
    """Base class; ``seconds`` since the run began."""

    seconds: float


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins; ``plan`` as plain values."""

    plan: Mapping[str, Any]
    folder: Path | None = None


@dataclass(frozen=True)
class PhaseStarted(Event):
    """A phase begins: ``teacher``, ``prepare``, ``quantize``, ``calibrate:NAME``, ``tune:NAME``, ``evaluate``, ``export``."""

    phase: str


@dataclass(frozen=True)
class Stepped(Event):
    """One step of a phase. Metrics may be tensors on a device: read them only when they are shown.

    ``synth`` has the metrics of the last generator step, if a generator is trained.
    """

    phase: str
    step: int
    total: int
    metrics: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0
    synth: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PhaseEnded(Event):
    """A phase ends; ``stopped`` if the budget ended it early."""

    phase: str
    stopped: bool = False


@dataclass(frozen=True)
class Message(Event):
    """A message for the user."""

    text: str


@dataclass(frozen=True)
class Publishing(Event):
    """The files of a run are complete and will be published together; a listener may add files to ``folder``.

    Args:
        report: The content of ``report.json``.
        folder: The scratch folder of the run, not its final place.
        ctx: The run's :class:`zsq.types.Context`, with the teacher, the frozen student, and ``sampler`` if there are images.
        details: Results of evaluators beyond numbers, by ``student`` or ``teacher``, then by evaluator.
    """

    report: Mapping[str, Any]
    folder: Path
    ctx: Any
    details: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunEnded(Event):
    """A run ends; ``report`` is the content of ``report.json``."""

    report: Mapping[str, Any]
