"""Activation ranges: the authors' factors, signed sites, the bound below 6 bits, and the order in which ranges are set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from zsq_squant import SquantRangeOptions
from zsq_squant.ranges import SquantRange, factor

from zsq.grids import ActPoint
from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing.world import make_batch, make_context, make_teacher
from zsq.training import watching_inputs
from zsq.types import Context, Student, Teacher


def set_by(x: Tensor, bits: int = 8, **options: Any) -> tuple[float, float]:
    """The range of a point at which ``x`` arrives."""
    point = ActPoint(bits)
    calibrator = SquantRange(SquantRangeOptions(**options), make_context(Path()))
    with watching_inputs({"site": point}, calibrator._set):
        point(x)
    lo, hi = point.range
    return float(lo), float(hi)


def student_of(teacher: Teacher, bits: int = 8, **options: Any) -> Student:
    return Uniform(UniformOptions(weight_bits=bits, act_bits=bits, **options), make_context(Path(), teacher=teacher)).quantize(
        teacher, None
    )  # fmt: skip


def calibrate(student: Student, teacher: Teacher, ctx: Context | None = None, **options: Any) -> list[Any]:
    ctx = ctx or make_context(Path(), teacher=teacher, student=student)
    return list(SquantRange(SquantRangeOptions(**options), ctx).fit(student, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "expected"), [(2, 10), (3, 11), (4, 12), (5, 13), (6, 14), (7, 19.5), (8, 25), (16, 69)])
def test_factors(bits: int, expected: float) -> None:
    assert factor(bits) == expected


def test_range_is_a_multiple_of_the_deviation_of_positive_values() -> None:
    x = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0])  # positive: deviation 1
    assert set_by(x) == (0, 25) and set_by(x, 6) == (0, 14)
    assert set_by(x, factor=5.0) == (0, 5)


def test_signed_sites_get_a_symmetric_narrower_range() -> None:
    x = torch.tensor([-4.0, -0.5, 1.0, 2.0, 3.0])
    assert set_by(x) == (-20, 20)


def test_below_six_bits_no_range_exceeds_the_largest_magnitude() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert set_by(x, 5) == (0, 3) and set_by(x, 4) == (0, 3) and set_by(x, 6) == (0, 14)
    assert set_by(x, 4, factor=2.0) == (0, 2), "but it may be narrower"
    assert set_by(torch.tensor([-4.0, -0.5, 1.0, 2.0, 3.0]), 4) == (-4, 4)


@pytest.mark.parametrize("x", [[0.0, 0.0], [0.0, 2.0], [-2.0, -1.0]])
def test_without_a_deviation_the_largest_magnitude_is_taken(x: list[float]) -> None:
    lo, hi = set_by(torch.tensor(x), 8)
    assert hi == max(map(abs, x)) and lo == (-hi if min(x) < 0 else 0)


def test_a_silent_site_is_named() -> None:
    said: list[str] = []
    calibrator = SquantRange(SquantRangeOptions(), make_context(Path()).with_(log=said.append))
    calibrator._set("site", ActPoint(8), torch.zeros(4))
    assert len(said) == 1 and "'site'" in said[0]


def test_sites_see_those_before_them_on_their_grids() -> None:
    """Each range is computed after the ranges before it are set, from the same noise on [0, 1)."""
    teacher = make_teacher()
    student = student_of(teacher, 2)
    assert [(beat.step, beat.total) for beat in calibrate(student, teacher, images=32)] == [(1, 1)]
    again = student_of(teacher, 2)
    noise = torch.rand((32, *teacher.inputs.shape), generator=torch.Generator().manual_seed(0))
    in_float: list[float] = []
    arrived: dict[str, Tensor] = {}
    with torch.no_grad(), watching_inputs(again.acts, lambda path, _point, x: arrived.__setitem__(path, x)):
        again.module(noise)
        in_float = [float(x.max()) for x in arrived.values()]
        for path, point in student.acts.items():
            again.module(noise)
            positive = arrived[path][arrived[path] > 0]
            expected = min(float(positive.std()) * 10, float(arrived[path].max()))
            assert float(point.range[1]) == pytest.approx(expected, rel=1e-5) and float(point.range[0]) == 0
            again.points[path].set_range(*point.range)
    ranges = [float(point.range[1]) for point in student.acts.values()]
    assert ranges[0] == pytest.approx(in_float[0], rel=1e-5) and ranges[1:] != pytest.approx(in_float[1:], rel=1e-3)


def test_inputs_that_are_never_negative_stay_unsigned_and_sums_may_be_signed() -> None:
    """With ``deploy`` there are points at the input, noise on [0, 1), and at sums without ReLU before them."""
    teacher = make_teacher()
    student = student_of(teacher, 8, scheme="deploy")
    calibrate(student, teacher)
    lows = {path: float(point.range[0]) for path, point in student.acts.items()}
    highs = {path: float(point.range[1]) for path, point in student.acts.items()}
    first = next(iter(lows))
    assert lows[first] == 0 and highs[first] == pytest.approx(25 * 12**-0.5, rel=0.02)
    assert all(low in (0, -highs[path]) for path, low in lows.items())


def test_frozen_points_keep_their_range() -> None:
    teacher = make_teacher()
    student = student_of(teacher)
    point: Any = next(iter(student.acts.values()))
    point.set_range(0.0, 0.25)
    point.freeze()
    calibrate(student, teacher)
    assert float(point.range[1]) == 0.25 and float(list(student.acts.values())[1].range[1]) != 0.25


def test_float_activations_leave_nothing_to_do() -> None:
    teacher = make_teacher()
    student = Uniform(UniformOptions(act_bits=None), make_context(Path(), teacher=teacher)).quantize(teacher, None)
    before = make_context(Path(), teacher=teacher)
    state = before.rng.get_state()
    assert calibrate(student, teacher, before) == [] and torch.equal(before.rng.get_state(), state)


def test_eight_bits_end_near_the_teacher() -> None:
    teacher = make_teacher()
    student = student_of(teacher)
    calibrate(student, teacher)
    inputs = make_batch(teacher, 32).inputs
    with torch.no_grad():
        theirs = teacher.module(inputs)
        assert (student.module(inputs) - theirs).norm() < 0.1 * theirs.norm()
