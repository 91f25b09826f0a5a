"""The distance with a margin on the angle."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from zsq_lrq.distill import margin_distance


@given(angle=st.floats(0.02, math.pi - 0.02), margin=st.floats(0, 1), sign=st.sampled_from([-1, 1]))
def test_distance_is_one_less_the_cosine_of_the_moved_angle(angle: float, margin: float, sign: int) -> None:
    cosine = torch.tensor(math.cos(angle), dtype=torch.float64)
    assert float(margin_distance(cosine, margin, sign)) == pytest.approx(1 - math.cos(angle + sign * margin), abs=1e-9)


def test_without_a_margin_it_is_intraqs_distance() -> None:
    cosine = torch.linspace(-0.99, 0.99, 21)
    assert torch.allclose(margin_distance(cosine, 0.0, 1), 1 - cosine)


@pytest.mark.parametrize("cosine", [-1.0, 1.0, -1.0000001, 1.0000001])
@pytest.mark.parametrize("sign", [-1, 1])
def test_gradient_is_finite_at_the_ends(cosine: float, sign: int) -> None:
    """The slope of sqrt(1 - cos²) is infinite there."""
    value = torch.tensor([cosine], requires_grad=True)
    distance = margin_distance(value, 0.5, sign)
    distance.sum().backward()
    assert torch.isfinite(distance).all() and torch.isfinite(value.grad).all()
    inside = torch.tensor([math.copysign(1 - 2e-6, cosine)], requires_grad=True)
    margin_distance(inside, 0.5, sign).sum().backward()
    assert torch.isfinite(inside.grad).all() and inside.grad.abs() < 1e3


def band(lower: float, upper: float, sign: int) -> tuple[float, float]:
    """First and last angle, in degrees, with a distance within the bounds."""
    angles = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    distance = margin_distance(angles.cos(), 0.5, sign)
    allowed = angles[(distance >= lower) & (distance <= upper)]
    return math.degrees(allowed.min()), math.degrees(allowed.max())


def test_direction_of_the_released_sign_is_towards_the_centre() -> None:
    """IntraQ's 0.3 and 0.8 allow 45.6 to 78.5 degrees; the released sign 16.9 to 49.8, the other 74.2 to 107.1."""
    assert band(0.3, 0.8, 1) == pytest.approx((16.9, 49.8), abs=0.06)
    assert band(0.3, 0.8, -1) == pytest.approx((74.2, 107.1), abs=0.06)
    assert band(0.05, 0.8, 1) == pytest.approx((0.0, 49.8), abs=0.06)  # CIFAR-10: the lower bound has no effect
