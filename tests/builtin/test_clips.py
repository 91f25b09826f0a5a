"""``clips`` and ``clip-search`` move what they say, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from zsq._builtin.clip_search import ClipSearch
from zsq._builtin.options import ClipSearchOptions
from zsq._compose import compose
from zsq._manager import Manager
from zsq._recipe import Recipe
from zsq._run.stream import Stream
from zsq.testing import tiny_run
from zsq.testing.world import make_batch, make_context, make_stream, make_teacher
from zsq.training import batch_norms
from zsq.types import Student, Teacher

CHAIN = {"synth": "noise", "quant": "uniform4", "calib": ["mean-image-max"]}


def tuned(steps: int = 3, **values: Any) -> Student:
    chain = {**CHAIN, "loss": ["mse"], "run": {"batch_size": 32}}
    return tiny_run({**chain, "tune": {"name": "clips", "steps": steps, **values}}).student


def calibrated() -> Student:
    return tiny_run({**CHAIN, "tune": "none", "run": {"batch_size": 32}}).student


def weights(student: Student) -> list[torch.Tensor]:
    return [point.codes for point in student.weights.values()]


def test_clips_leaves_every_weight_and_bias_and_moves_ranges_and_batch_norm() -> None:
    before, after = calibrated(), tuned()
    assert all(torch.equal(a, b) for a, b in zip(weights(before), weights(after), strict=True))
    norms = {f"{path}.{name}" for path in batch_norms(after.module) for name in ("weight", "bias")}
    old, new = dict(before.module.named_parameters()), dict(after.module.named_parameters())
    assert {name for name in old if not torch.equal(old[name], new[name])} == norms
    assert all(float(a.range[1]) != float(b.range[1]) for a, b in zip(before.acts.values(), after.acts.values(), strict=True))


@pytest.mark.parametrize("values", [{"lr": 0.0}, {"range_lr": 0.0}])
def test_a_rate_of_zero_leaves_its_part(values: dict[str, float]) -> None:
    before, after = calibrated(), tuned(**values)
    same_ranges = all(torch.equal(a.range[1], b.range[1]) for a, b in zip(before.acts.values(), after.acts.values(), strict=True))
    same_norms = all(
        torch.equal(a.bias, b.bias) for a, b in zip(batch_norms(before.module).values(), batch_norms(after.module).values(), strict=True)
    )
    assert (same_norms, same_ranges) == ("lr" in values, "range_lr" in values)


def test_clips_comes_nearer_to_the_teacher() -> None:
    teacher = make_teacher()
    inputs = make_batch(teacher, 64, seed=5).inputs

    def distance(student: Student) -> float:
        with torch.no_grad():
            return float((student.module(inputs) - teacher.module(inputs)).square().mean())

    assert distance(tuned(40)) < 0.9 * distance(calibrated())


def test_clips_suggests_matching_logits() -> None:
    plan = compose(Recipe(teacher={"ref": "py:x:y"}, tune={"name": "clips"}), Manager.discover(third_party=False))
    assert [loss.name for loss in plan.losses] == ["mse"]


@pytest.fixture
def setting() -> tuple[Teacher, Student, Stream]:
    from zsq.options import UniformOptions
    from zsq.placement import Uniform

    teacher = make_teacher()
    student = Uniform(UniformOptions(weight_bits=8, act_bits=3), make_context(Path())).quantize(teacher, None)
    return teacher, student, make_stream(teacher, student, batch_size=8)


def search(setting: tuple[Teacher, Student, Stream], **values: Any) -> ClipSearch:
    teacher, student, _ = setting
    return ClipSearch(ClipSearchOptions(images=16, **values), make_context(Path(), teacher=teacher, student=student))


def test_every_site_gets_the_candidate_with_the_least_error(setting: Any) -> None:
    """The plain loop: all candidates by whole forwards, site after site."""
    teacher, student, stream = setting
    for _ in search(setting, candidates=4, narrowest=0.4).fit(student, stream):
        pass
    found = [float(point.range[1]) for point in student.acts.values()]

    again = make_stream(teacher, student, batch_size=8)
    inputs = torch.cat([next(again)[0].inputs for _ in range(2)])
    goal = teacher.module(inputs)
    tops = _extremes(setting, inputs)
    for point, top in zip(student.acts.values(), tops, strict=True):
        point.set_range(0.0, top)
    for point, top, expected in zip(student.acts.values(), tops, found, strict=True):
        errors = {}
        for share in (0.4, 0.6, 0.8, 1.0):
            point.set_range(0.0, top * share)
            with torch.no_grad():
                errors[top * share] = float((student.module(inputs) - goal).square().mean())
        best = min(errors, key=errors.__getitem__)
        point.set_range(0.0, best)
        assert best == pytest.approx(expected)


def _extremes(setting: Any, inputs: torch.Tensor) -> list[float]:
    """Largest value at every site, in float."""
    from zsq.options import UniformOptions
    from zsq.placement import Uniform

    fresh = Uniform(UniformOptions(weight_bits=8, act_bits=3), make_context(Path())).quantize(setting[0], None)
    tops: list[float] = []
    for point in fresh.acts.values():
        point.register_forward_pre_hook(lambda _m, args: tops.append(float(args[0].max())))
    with torch.no_grad():
        fresh.module(inputs)
    return tops


def test_the_search_starts_from_the_ranges_that_are_there(setting: Any) -> None:
    _, student, stream = setting
    for point in student.acts.values():
        point.set_range(0.0, 2.0)
    for _ in search(setting, candidates=3, narrowest=0.5).fit(student, stream):
        pass
    assert all(round(float(point.range[1]), 4) in (1.0, 1.5, 2.0) for point in student.acts.values())


def test_closed_after_the_first_site_the_others_keep_their_ranges(setting: Any) -> None:
    _, student, stream = setting
    for point in student.acts.values():
        point.set_range(0.0, 2.0)
    work = iter(search(setting).fit(student, stream))
    next(work)
    work.close()
    assert [float(point.range[1]) for point in student.acts.values()][1:] == [2.0] * (len(student.acts) - 1)
