"""The stream: who moves when, under every cadence."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice

import pytest
import torch

from zsq._run.stream import Stream
from zsq.types import Batch, Cadence, Student, Trace, Update


class Recorder:
    """An alternating synthesizer that writes down what happens to it."""

    def __init__(self, cadence: Cadence) -> None:
        self.cadence, self.log, self.weight = cadence, [], torch.ones(1, requires_grad=True)

    def sample(self, n: int) -> Batch:
        self.log.append(f"sample{n}")
        return Batch(self.weight * torch.zeros(n, 1))

    def update(self, probe: object) -> Update:
        assert torch.is_grad_enabled()
        self.log.append("update")
        return Update(Batch(self.weight * torch.ones(2, 1)), Trace(self.weight * 2), {"g": 1.0})


def stream(synth: object) -> Stream:
    return Stream(synth, None, Student(torch.nn.Identity(), {}, {}), 3)


@pytest.mark.parametrize(
    ("cadence", "expected"),
    [
        (Cadence(), ["update"] * 4),
        (Cadence(reuse=False), ["update", "sample3"] * 4),
        (Cadence(2, 1), ["update", "update"] * 4),
        (Cadence(1, 3, "synth", False), ["update", "sample3", "sample3", "sample3", "update", "sample3"]),
        (Cadence(1, 3, "student", False), ["sample3", "sample3", "sample3", "update", "sample3"]),
        (Cadence(1, 2, "synth", True), ["update", "sample3", "update", "sample3"]),
    ],
)
def test_cadence(cadence: Cadence, expected: list[str]) -> None:
    synth = Recorder(cadence)
    list(islice(stream(synth), 4))
    assert synth.log == expected


def test_reused_batches_are_detached_and_carry_the_teacher() -> None:
    with torch.no_grad():
        batch, trace = next(stream(Recorder(Cadence())))
    assert not batch.inputs.requires_grad and trace is not None and not trace.output.requires_grad


def test_samples_have_no_graph_and_no_trace() -> None:
    batch, trace = next(stream(Recorder(Cadence(reuse=False))))
    assert len(batch) == 3 and not batch.inputs.requires_grad and trace is None


def test_a_staged_synthesizer_only_samples() -> None:
    class Staged:
        def sample(self, n: int) -> Batch:
            return Batch(torch.zeros(n, 1))

    assert [len(batch) for batch, _ in islice(stream(Staged()), 2)] == [3, 3]


@pytest.mark.parametrize("observes", [True, False])
def test_points_watch_during_an_update_only_on_demand(observes: bool) -> None:
    seen = []

    class Watched(Student):
        @contextmanager
        def observing(self, on: bool = True):
            seen.append(on)
            yield

    synth = Recorder(Cadence(observes=observes))
    next(Stream(synth, None, Watched(torch.nn.Identity(), {}, {}), 1))
    assert seen == [observes]
