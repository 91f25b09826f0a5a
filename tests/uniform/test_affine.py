"""Arithmetic of grids: the written formula, the published one, and what every grid has to satisfy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsq import grids
from zsq.format._pack import pack, packed_size, unpack

BITS = st.integers(2, 8)
VALUES = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=40)


def tensor(values):
    return torch.tensor(values, dtype=torch.float32)


def grid_of(x, bits, symmetric=False, with_zero=False):
    lo, hi = x.min(), x.max()
    return grids.symmetric(lo, hi, bits) if symmetric else grids.asymmetric(lo, hi, bits, with_zero)


@given(VALUES, BITS, st.booleans(), st.booleans())
def test_simulation_equals_the_formula_bit_for_bit(values, bits, symmetric, with_zero):
    x = tensor(values)
    grid = grid_of(x, bits, symmetric, with_zero)
    f = np.float32
    inverse = f(1) / grid.scale.numpy()
    codes = np.clip(np.rint(x.numpy() * inverse) + grid.zero_point.numpy(), f(grid.low), f(grid.high))
    expected = (codes - grid.zero_point.numpy()) * grid.scale.numpy()
    assert np.array_equal(grids.encode(x, grid).numpy(), codes)
    assert np.array_equal(grids.on_grid(x, grid).numpy(), expected)
    assert np.array_equal(grids.on_flat_grid(x, grids.flatten(grid)).numpy(), expected)
    assert np.array_equal(grids.decode(grids.encode(x, grid), grid).numpy(), expected)


@given(VALUES, BITS)
def test_codes_equal_the_published_multiplier_formula_but_for_ties(values, bits):
    """s = (2^k - 1) / range, z = round(s lo) + 2^(k-1), code = clamp(round(s x - z)): ours shifted by 2^(k-1)."""
    x = tensor(values)
    lo, hi = x.min(), x.max()
    if max(abs(float(lo)), abs(float(hi))) > 1000 * float(hi - lo):
        return  # so far from zero that float32 rounds s * lo itself
    ours = grids.encode(x, grids.asymmetric(lo, hi, bits))
    s = (2**bits - 1) / (hi - lo).clamp_min(1e-8)
    z = torch.round(s * lo) + 2 ** (bits - 1)
    theirs = torch.clamp(torch.round(s * x - z), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) + 2 ** (bits - 1)
    at_tie = ((s * x - torch.floor(s * x)) - 0.5).abs() < 1e-3
    origin_at_tie = bool(((s * lo - torch.floor(s * lo)) - 0.5).abs() < 1e-3)
    if not origin_at_tie:
        assert torch.equal(ours[~at_tie], theirs[~at_tie])
    assert (ours - theirs).abs().max() <= 1


@given(VALUES, BITS, st.booleans())
def test_idempotent_monotone_and_at_most_two_to_the_bits_levels(values, bits, symmetric):
    x = tensor(values).sort().values
    grid = grid_of(x, bits, symmetric, with_zero=True)
    once = grids.on_grid(x, grid)
    assert torch.equal(grids.on_grid(once, grid), once)
    assert (once.diff() >= 0).all()
    assert len(once.unique()) <= 2**bits
    assert torch.equal(grids.on_grid(torch.zeros(1), grid), torch.zeros(1))


@given(VALUES, st.integers(2, 12), st.booleans())
def test_error_is_at_most_half_a_step_inside_the_range(values, bits, symmetric):
    x = tensor(values)
    grid = grid_of(x, bits, symmetric, with_zero=True)
    lo, hi = ((c - grid.zero_point) * grid.scale for c in (grid.low, grid.high))
    inside = (x >= lo) & (x <= hi)
    error = (grids.on_grid(x, grid) - x).abs()[inside]
    assert (error <= grid.scale * 0.5 + x.abs().max() * 1e-6 + 1e-12).all()


@given(VALUES)
def test_sixteen_bits_are_close_to_float(values):
    x = tensor(values)
    error = (grids.on_grid(x, grid_of(x, 16)) - x).abs().max()
    assert error <= (x.max() - x.min()).clamp_min(1e-8) / 65535 + x.abs().max() * 1e-6


@given(st.floats(-1e4, 1e4, width=32), BITS, st.booleans())
def test_a_constant_channel_keeps_its_value(value, bits, symmetric):
    x = torch.full((3,), value, dtype=torch.float32)
    got = grids.on_grid(x, grid_of(x, bits, symmetric))
    torch.testing.assert_close(got, x, rtol=1e-5, atol=1e-8)


def test_published_ranges_are_kept_unless_zero_is_asked_for():
    x = torch.tensor([1.0, 2.0, 4.0])
    raw, widened = (grids.asymmetric(x.min(), x.max(), 2, with_zero=w) for w in (False, True))
    assert raw.scale == 1 and raw.zero_point == -1 and torch.equal(grids.on_grid(x, raw), x)
    assert widened.zero_point == 0 and torch.isclose(widened.scale, torch.tensor(4 / 3))


def test_halves_round_to_even():
    grid = grids.Grid(torch.tensor(1.0), torch.tensor(0.0), 0, 15)
    assert grids.encode(torch.tensor([0.5, 1.5, 2.5, 3.5]), grid).tolist() == [0, 2, 2, 4]


def test_gradient_is_copied_unchanged_also_where_values_saturate():
    x = torch.tensor([-9.0, 0.2, 9.0], requires_grad=True)
    grid = grids.asymmetric(torch.tensor(0.0), torch.tensor(1.0), 4)
    for used in (grid, grids.flatten(grid)):
        x.grad = None
        grids.straight_through(x, used).backward(torch.tensor([1.0, 2.0, 3.0]))
        assert x.grad is not None and x.grad.tolist() == [1, 2, 3]


@settings(max_examples=60)
@given(st.integers(2, 16), st.booleans(), st.integers(0, 70), st.integers(0, 2**31 - 1))
def test_packing_is_exact_and_as_small_as_the_bits(bits, signed, count, seed):
    low = -(2 ** (bits - 1)) if signed else 0
    codes = torch.from_numpy(np.random.default_rng(seed).integers(low, low + 2**bits, count, dtype=np.int32))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and len(packed) == packed_size(count, bits) == -(-count * bits // 8)
    assert torch.equal(unpack(packed, bits, (count,), signed), codes)


def test_packing_order_is_lowest_bit_first():
    assert pack(torch.tensor([1, 2, 3]), 4).tolist() == [0x21, 0x03]
    assert pack(torch.tensor([-1, 1]), 3).tolist() == [0b001111]
