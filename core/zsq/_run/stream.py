"""The stream of batches for calibrators and tuners: the only place where a generator takes training steps, one per batch or so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from zsq.protocols import Alternating, Paced, Synthesizer
from zsq.types import Batch, Cadence, Probe, Student, Trace


class Stream:
    """An endless iterator of ``(batch, teacher trace or None)``.

    Args:
        synth: A synthesizer. One with ``update`` takes generator steps as its ``cadence`` says, with gradients even when a calibrator
            pulls under ``no_grad``; any other only samples.
        probe: Passed to ``synth.update``.
        student: Its activation points observe during an update only if the synthesizer asks for it (``Cadence.observes``).
        batch_size: Images per batch.
    """

    def __init__(self, synth: Synthesizer, probe: Probe, student: Student, batch_size: int) -> None:
        self.synth, self.probe, self.student, self.batch_size = synth, probe, student, batch_size
        self.cadence = cadence_of(synth)
        self.pulls = 0
        self.metrics: dict[str, Any] = {}

    def __iter__(self) -> Iterator[tuple[Batch, Trace | None]]:
        return self

    def __next__(self) -> tuple[Batch, Trace | None]:
        ready = None
        cadence, pulls = self.cadence, self.pulls
        due = pulls % cadence.student == 0 and (pulls > 0 or cadence.first == "synth")
        if due and isinstance(self.synth, Alternating):
            for _ in range(cadence.synth):
                with torch.enable_grad(), self.student.observing(cadence.observes):
                    update = self.synth.update(self.probe)
            self.metrics = dict(update.metrics)
            if cadence.reuse:
                ready = update.batch.detached(), update.teacher.detached() if update.teacher else None
        self.pulls += 1
        return ready or (self.sample(self.batch_size), None)

    def sample(self, n: int) -> Batch:
        """``n`` images, without a generator step and without gradients."""
        with torch.no_grad():
            batch: Batch = self.synth.sample(n)
            return batch.detached()


def cadence_of(synth: Synthesizer) -> Cadence:
    """How a synthesizer and the student take turns."""
    return synth.cadence if isinstance(synth, Paced) else Cadence()
