"""Points: who may move a range, what observing does, what freezing fixes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from zsq.grids import LAYERS, ActPoint, WeightPoint
from zsq.points import QuantPoint


def test_an_activation_point_without_a_range_passes_data_on():
    point, x = ActPoint(4), torch.randn(8)
    assert isinstance(point, QuantPoint) and point(x) is x and point.range[0].isnan()


def test_ranges_give_the_documented_scale_and_zero_point():
    point = ActPoint(4)
    point.set_range(-1.0, 2.0)
    assert torch.isclose(point.scale, torch.tensor(0.2)) and point.zero_point == 5
    assert [float(v) for v in point.range] == [-1, 2]
    point.set_range(0.5, 3.0)  # widened to zero
    assert torch.isclose(point.scale, torch.tensor(0.2)) and point.zero_point == 0


def test_a_symmetric_activation_is_unsigned_where_nothing_is_negative():
    point = ActPoint(4, symmetric=True)
    point.set_range(0.0, 3.0)
    assert torch.isclose(point.scale, torch.tensor(3 / 15))
    point.set_range(-1.0, 3.0)
    assert torch.isclose(point.scale, torch.tensor(3 / 7)) and point.zero_point == 0


def test_observing_gathers_extremes_and_sets_them_when_it_ends():
    point = ActPoint(4)
    point.observing = True
    first = torch.tensor([0.0, 1.0])
    assert point(first) is first
    point(torch.tensor([-2.0, 0.5]))
    point.observing = False
    assert [float(v) for v in point.range] == [-2, 1]
    point.observing = True
    assert len(point(torch.linspace(-3, 3, 100)).unique()) <= 16  # the present range stays in use
    point.observing = False
    assert [float(v) for v in point.range] == [-3, 3]
    point.set_range(0.0, 1.0)
    point.observing = True
    point.observing = False
    assert [float(v) for v in point.range] == [0, 1]


def test_frozen_points_keep_their_range():
    point = ActPoint(4)
    point.set_range(0.0, 1.0)
    point.freeze()
    point.observing = True
    point(torch.tensor([5.0]))
    assert not point.observing and float(point.range[1]) == 1
    with pytest.raises(AssertionError):
        point.set_range(0.0, 2.0)


def test_ranges_travel_in_the_state_dict():
    first, second = ActPoint(4), ActPoint(4)
    first.set_range(-1.0, 1.0)
    second.load_state_dict(first.state_dict())
    x = torch.randn(50)
    assert torch.equal(first(x), second(x)) and not torch.equal(second(x), x)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("axis", [0, None])
def test_a_live_weight_point_follows_the_weight(axis, symmetric):
    weight = nn.Parameter(torch.randn(3, 5))
    point = WeightPoint(weight, 4, symmetric, axis)
    assert isinstance(point, QuantPoint) and point.live and point.scale.shape == ((3,) if axis == 0 else ())
    before = point.scale.clone()
    with torch.no_grad():
        weight.mul_(2)
    assert torch.allclose(point.scale, 2 * before)
    lo, hi = point.range
    assert torch.equal(lo, weight.detach().amin(1) if axis == 0 else weight.detach().min())
    point.set_range(lo, hi)
    with torch.no_grad():
        weight.mul_(2)
    assert not point.live and torch.allclose(point.scale, 2 * before)


@pytest.mark.parametrize("kind", ["Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_freezing_changes_no_output_and_leaves_few_levels(kind, symmetric):
    dims = {"Linear": 0, "Conv1d": 1, "Conv2d": 2, "Conv3d": 3, "ConvTranspose2d": 2}[kind]
    layer = LAYERS[kind](4, 6, *([3] if dims else []))
    layer.point(3, symmetric, per_channel=True)
    x = torch.randn(2, 4, *([5] * dims))
    expected = layer(x)
    clone = copy.deepcopy(layer)
    layer.weight_point.freeze()
    assert torch.equal(layer(x), expected) and torch.equal(clone(x), expected)
    channels = layer.weight.detach().transpose(0, 1) if kind == "ConvTranspose2d" else layer.weight.detach()
    assert len(channels) == len(layer.weight_point.scale) == 6
    assert all(len(channel.unique()) <= 8 for channel in channels)
    grid = layer.weight_point.grid
    assert torch.equal((layer.weight_point.codes - grid.zero_point) * grid.scale, layer.weight)


def test_weights_learn_through_the_grid():
    layer = LAYERS["Linear"](4, 2)
    layer.point(4, False, True)
    x = torch.randn(3, 4)
    layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, x.sum(0).expand(2, 4))
