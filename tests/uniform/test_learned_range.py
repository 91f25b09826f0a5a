"""Activation ranges that a tuner moves by gradient."""

from __future__ import annotations

import math

import pytest
import torch

from zsq.grids import ActPoint
from zsq.testing import tiny_run


def point(hi: float = 3.0, lo: float = 0.0, bits: int = 4) -> ActPoint:
    made = ActPoint(bits)
    made.set_range(lo, hi)
    made.learn_range(True)
    return made


def slope(made: ActPoint, x: torch.Tensor) -> float:
    """d sum(point(x)) / d log(range)."""
    made.log_range.grad = None
    made(x).sum().backward()
    return float(made.log_range.grad)


def test_beyond_the_range_the_gradient_is_the_difference_quotient() -> None:
    made, x, step = point(hi=3.0), torch.full((8, 2), 50.0), 1e-3
    stretched = point(hi=3.0 * float(torch.tensor(step).exp()))
    quotient = float((stretched(x) - made(x)).sum()) / step
    assert slope(made, x) == pytest.approx(quotient, rel=1e-2) == pytest.approx(48.0, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inside_the_range_the_gradient_is_the_quantization_error(dtype: torch.dtype) -> None:
    made = point(hi=15.0)
    x = torch.tensor([[0.25, 1.25, 7.75, 14.25]]).repeat(8, 1).to(dtype)
    values = made(x)
    error = float((values - x).detach().float().sum())
    assert slope(made, x) == pytest.approx(error)
    assert torch.equal(made(x), values), "the values of the forward were changed by the backward"


def test_values_take_no_gradient_beyond_the_range_and_all_of_it_inside() -> None:
    x = torch.tensor([[-2.0, 0.0, 1.0, 2.9, 4.0]], requires_grad=True)
    point(hi=3.0)(x).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 1.0, 1.0, 0.0]]


def test_applying_stretches_the_range_and_keeps_the_zero_point() -> None:
    made = point(lo=-1.0, hi=3.0)
    zero_point = made.zero_point.clone()
    made.log_range.data.fill_(0.5)
    made.apply_learned()
    factor = float(torch.tensor(0.5).exp())
    assert made.range[0] == pytest.approx(-factor) and made.range[1] == pytest.approx(3 * factor)
    assert torch.equal(made.zero_point, zero_point) and float(made.log_range) == 0


def test_a_point_without_a_range_or_frozen_learns_none() -> None:
    made = ActPoint(4)
    made.learn_range(True)
    assert made.log_range is None and not list(made.parameters())
    frozen = point()
    frozen.learn_range(False)
    frozen.freeze()
    frozen.learn_range(True)
    assert frozen.log_range is None


@pytest.mark.parametrize(("range_lr", "moves"), [(0.05, True), (0.0, False)])
def test_finetune_moves_ranges_only_when_asked(range_lr: float, moves: bool) -> None:
    sections = {"calib": ["minmax"], "tune": "none"}
    before = [float(p.range[1]) for p in tiny_run(sections).student.acts.values()]
    tuned = tiny_run({**sections, "tune": {"name": "finetune", "steps": 3, "range_lr": range_lr}}).student
    after = [float(p.range[1]) for p in tuned.acts.values()]
    assert (before != after) is moves
    assert not any(p.log_range is not None for p in tuned.acts.values())


def test_finetune_moves_ranges_by_their_own_rate_alone() -> None:
    """The first step of Adam is as long as its rate, whatever the gradient."""
    sections = {"calib": ["minmax"], "tune": "none"}
    before = [float(p.range[1]) for p in tiny_run(sections).student.acts.values()]
    tuned = tiny_run({**sections, "tune": {"name": "finetune", "steps": 1, "schedule": "constant", "range_lr": 0.05, "lr": 0.03}}).student
    after = [float(p.range[1]) for p in tuned.acts.values()]
    for a, b in zip(after, before, strict=True):
        assert abs(math.log(a / b)) == pytest.approx(0.05, rel=1e-3)
