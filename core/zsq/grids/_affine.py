"""Uniform affine quantization: from ranges to grids, from values to integer codes and back. Pure functions.

A grid has a step ``scale`` and an integer ``zero_point``. With ``inverse = float32(1 / scale)``,

    code  = clamp(round(x * inverse) + zero_point, low, high)        round half to even
    value = (code - zero_point) * scale

The definition multiplies by the inverse; it does not divide. Simulation, packing and loading all use it, and it gives the same codes on
every device. Simulation computes ``code - zero_point`` directly, by clamping to ``[low - zero_point, high - zero_point]``. Integers are
exact in float32, so the result has the same bits as the formula.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Narrowest range, as in the quantizers of ZeroQ and GDFQ; keeps 1 / scale finite.
NARROWEST = 1e-8
#: Zero points stay below this, so that every ``code - zero_point`` is exact in float32.
_FARTHEST = 2.0**22


class Grid(NamedTuple):
    """``scale`` and ``zero_point`` (integers held as float32) broadcast against the values; codes are in ``[low, high]``."""

    scale: Tensor
    zero_point: Tensor
    low: int
    high: int


class FlatGrid(NamedTuple):
    """One grid for a whole tensor as Python numbers: it needs no broadcast and no device sync."""

    inverse: float
    scale: float
    zero_point: int
    low: int
    high: int


def asymmetric(lo: Tensor, hi: Tensor, bits: int, with_zero: bool = False) -> Grid:
    """The grid of ``2**bits`` unsigned codes over ``[lo, hi]``: scale = (hi - lo) / (2**bits - 1), zero_point = round(-lo / scale).

    If the range is so narrow and so far from zero that its zero point is not exact in float32 (a channel with one value), the scale is
    larger, at most 2**-22 of the largest value.

    Args:
        lo: Smallest value, any shape, float32.
        hi: Largest value, not below ``lo``.
        bits: 2 to 16.
        with_zero: Widen the range to contain zero, so that ``zero_point`` is itself a code and zero is exact.
    """
    high = 2**bits - 1
    if with_zero:
        lo, hi = lo.clamp_max(0), hi.clamp_min(0)
    farthest = torch.maximum(hi, -lo).mul_(high / _FARTHEST)
    scale = torch.maximum(hi - lo, farthest).clamp_min_(NARROWEST).div_(high)
    return Grid(scale, 0.0 - (lo * scale.reciprocal()).round_(), 0, high)  # a difference: no negative zeros in files


def symmetric(lo: Tensor, hi: Tensor, bits: int, signed: bool = True) -> Grid:
    """The grid with zero point 0: signed codes with scale = max|x| / (2**(bits-1) - 1), or unsigned ones, max|x| / (2**bits - 1)."""
    largest = torch.maximum(lo.abs(), hi.abs()).clamp_min(NARROWEST)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return Grid(largest / high, torch.zeros_like(largest), low, high)


def encode(x: Tensor, grid: Grid) -> Tensor:
    """Integer codes of ``x``, in its dtype."""
    return (torch.round(x * grid.scale.reciprocal()) + grid.zero_point).clamp_(grid.low, grid.high)


def decode(codes: Tensor, grid: Grid) -> Tensor:
    """The float32 values of ``codes``."""
    return (codes.float() - grid.zero_point) * grid.scale


def on_grid(x: Tensor, grid: Grid) -> Tensor:
    """``decode(encode(x))``, bit for bit, in fewer passes."""
    centred = torch.round(x * grid.scale.reciprocal())
    return centred.clamp_(grid.low - grid.zero_point, grid.high - grid.zero_point).mul_(grid.scale)


def flatten(grid: Grid) -> FlatGrid:
    """A grid of one element as Python numbers; each float is the float32 it came from."""
    return FlatGrid(grid.scale.reciprocal().item(), grid.scale.item(), int(grid.zero_point.item()), grid.low, grid.high)


def on_flat_grid(x: Tensor, grid: FlatGrid) -> Tensor:
    """``on_grid`` for a whole tensor, in ``x``'s dtype: one new tensor, four passes in place."""
    return x.mul(grid.inverse).round_().clamp_(grid.low - grid.zero_point, grid.high - grid.zero_point).mul_(grid.scale)


class _Straight(torch.autograd.Function):
    """Fake-quantize; the backward pass copies the gradient, also for saturated values, and gives none to the range (GDFQ's
    straight-through estimator). Nothing is saved for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid | FlatGrid) -> Tensor:
        return on_flat_grid(x, grid) if isinstance(grid, FlatGrid) else on_grid(x, grid)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(x: Tensor, grid: Grid | FlatGrid) -> Tensor:
    """Fake-quantize ``x``, with a straight-through estimator for the gradient."""
    return _Straight.apply(x, grid)  # type: ignore[no-any-return,no-untyped-call]


class _Learned(torch.autograd.Function):
    """Fake-quantize; the backward pass also computes the gradient of the logarithm of the range.

    With value = scale * code, d value / d log(scale) is the quantization error (value - x) inside the range and the value
    itself outside (LSQ, Esser et al., 2020, equation 3, in logarithmic form); ``x`` gets no gradient outside the range.
    The gradient of the range is estimated from the first eighth of the batch, because full passes for this one number would cost as
    much as the layer.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_range: Tensor, grid: FlatGrid) -> Tensor:
        y = on_flat_grid(x, grid)
        ctx.save_for_backward(x, y)
        ctx.grid = grid
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, y = ctx.saved_tensors
        grid: FlatGrid = ctx.grid
        low = (grid.low - grid.zero_point - 0.5) * grid.scale
        high = (grid.high - grid.zero_point + 0.5) * grid.scale
        inner = torch.ops.aten.hardtanh_backward(grads[0], x, low, high)  # the first argument where low < x < high, else 0
        part = slice(0, -(-len(x) // 8))
        some = x[part]
        error = y[part] - torch.ops.aten.hardtanh_backward(some, some, low, high)
        slope = (grads[0][part] * error).sum(dtype=torch.float32) * (len(x) / len(some))
        return inner, slope, None


def learned(x: Tensor, log_range: Tensor, grid: FlatGrid) -> Tensor:
    """Fake-quantize ``x``, with gradients for ``x`` and for the logarithm of the range."""
    return _Learned.apply(x, log_range, grid)  # type: ignore[no-any-return,no-untyped-call]
