"""The floor that generators are measured beside: which network runs how often, by the synthesizer's own cadence and needs."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from zsq.errors import ZsqError
from zsq.testing import teachers
from zsq.types import Cadence

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """``script(name)``: a benchmark as it is imported where it is run, beside the others."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize(
    ("cadence", "through_student", "forwards"),
    [
        (Cadence(1, 1, "synth", reuse=True), False, {"generator": 1, "teacher": 1, "student": 1}),
        (Cadence(1, 1, "synth", reuse=True), True, {"generator": 1, "teacher": 1, "student": 2}),
        (Cadence(1, 5, "student", reuse=False), True, {"generator": 6, "teacher": 6, "student": 6}),
        (Cadence(1, 2, "synth", reuse=True), False, {"generator": 2, "teacher": 2, "student": 2}),
        (Cadence(3, 1, "synth", reuse=True), False, {"generator": 3, "teacher": 3, "student": 1}),
    ],
)
def test_a_cycle_of_the_floor_runs_what_the_method_needs(
    cadence: Cadence, through_student: bool, forwards: dict[str, int], script: Callable[[str], ModuleType]
) -> None:
    generator = nn.Sequential(nn.Linear(4, 192), nn.Unflatten(1, teachers.SHAPE))
    ctx: Any = SimpleNamespace(teacher=SimpleNamespace(module=teachers.tiny()))
    synth = SimpleNamespace(generator=generator, ctx=ctx, cadence=cadence, draw=lambda n: ((torch.randn(n, 4),), None))
    floor = script("step_time").Floor(synth, through_student, 4, "fp32")
    calls: Counter[str] = Counter()
    for name in forwards:
        getattr(floor, name).register_forward_hook(lambda *_, name=name: calls.update([name]))
    before = [p.clone() for p in (*floor.generator.parameters(), *floor.student.parameters())]
    floor()
    assert calls == forwards
    assert all(not torch.equal(a, b) for a, b in zip(before, (*floor.generator.parameters(), *floor.student.parameters()), strict=True))
    assert all(p.grad is None for p in floor.teacher.parameters())
    assert torch.equal(generator[0].weight, before[0]), "the floor trains a copy"


@pytest.mark.parametrize(("name", "message"), [("nosuch", "not found"), ("noise", "no generator that learns")])
def test_a_synthesizer_that_cannot_be_measured_is_named(name: str, message: str, script: Callable[[str], ModuleType]) -> None:
    with pytest.raises(ZsqError, match=message):
        script("step_time").measure(name, 4, "fp32", 1)


def test_records_old_and_new_are_rendered(script: Callable[[str], ModuleType]) -> None:
    row = {"synth": "qimera", "batch": 16, "precision": "bf16", "chain_s": 0.2, "floor_s": 0.16, "ratio": 1.25}
    rows = [row, {**row, "tune": "ait", "synth": "same images"}]
    lines = script("collect").rows_of_steps([{"rows": rows}])[2:]
    assert lines == [
        "| qimera | finetune | 16 | bf16 | 0.200 s | floor 0.160 s | 1.25 |",
        "| same images | ait | 16 | bf16 | 0.200 s | finetune 0.160 s | 1.25 |",
    ]
