"""SQuant's rounding: rounds every weight up or down so that errors cancel within kernels and output channels.

The loss is assumed to grow with (element error)^2 + (kernel sum)^2 + (channel sum)^2 with unknown positive coefficients, so each
part gets its own bound (CASE, the paper's constrained absolute sum of error). With d = code - exact code, in steps of the grid:

    E  nearest code:                        |d| <= 0.5
    K  flips within each kernel:            |kernel sum| <= 0.5,  |d| < 1
    C  one flip per kernel at most:         |channel sum| <= 0.5, |kernel sum| < 1

A flip takes the neighbouring code on the other side of the exact value. An element with d < 0 may be flipped up, one with
d > 0 down, unless that code is outside of the grid; no element is ever more than one step from its nearest code. The bound
of K holds if a kernel has enough elements to flip, the bound of C if a channel has enough candidates: always, unless values
outside of the grid were clipped. If there are too few, all of them are flipped.

Of equal priorities, the first in memory is flipped first. Sums are rounded half to even. A kernel whose sum is exactly zero after K has
no candidate for C: a flip would bring its sum to one. (The authors' code undoes its last flip or, without a flip, reads out of bounds.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from zsq import grids
from zsq.grids import Grid

#: Errors are rounded to 2^-30 of a step, so that float64 sums of up to 2^22 of them are exact in any order.
_FINEST = 2.0**30
#: From this zero_point on, float32 hardly separates the steps of a channel: its values differ only in their last bits.
_FAR = 2.0**20
#: Elements processed at once; bounds the memory.
_CHUNK = 2**22


def squant_codes(weight: Tensor, grid: Grid, *, transposed: bool = False, groups: int = 1, kernel: bool = True,
                 channel: bool = True) -> Tensor:  # fmt: skip
    """Codes of a layer's weight on its grid, int32, in the weight's shape.

    Args:
        weight: (O, I / groups, *K) of a convolution, (O, I) of a linear layer, (I, O / groups, *K) if ``transposed``.
        grid: Broadcasts against the weight; one element, or one for each slice along the output channels' dimension.
        transposed: Whether the layer is a transposed convolution.
        groups: Groups of the layer; used only if ``transposed``.
        kernel: Whether to run stage K.
        channel: Whether to run stage C.
    """
    rows = _by_channel(weight.detach().float(), transposed, groups)
    scale, zero_point = (_per_row(t, len(rows), transposed, groups) for t in (grid.scale, grid.zero_point))
    size = max(1, _CHUNK // rows[0].numel())
    parts = zip(torch.split(rows, size), torch.split(scale, size), torch.split(zero_point, size), strict=True)
    codes = torch.cat([_round(part, Grid(s, z, grid.low, grid.high), kernel, channel) for part, s, z in parts])
    return _as_weight(codes, weight.shape, transposed, groups)


def flips(errors: Tensor, up: Tensor, down: Tensor, kernel: bool = True, channel: bool = True) -> Tensor:
    """Stages K and C.

    Args:
        errors: Output channels x kernels x elements (M, N, K), float64: nearest code minus exact code.
        up: Whether an element's code may be raised; bool, (M, N, K).
        down: Whether it may be lowered.
        kernel: Whether to run stage K; kernels of one element have nothing to do there.
        channel: Whether to run stage C: on one candidate per kernel after stage K or, without K, on all elements.

    Returns:
        Change of each code: -1, 0 or 1, float64, (M, N, K).
    """
    move = (up & (errors < 0)).double() - (down & (errors > 0)).double()
    shift = torch.zeros_like(errors)
    kernel = kernel and errors.shape[2] > 1
    if kernel:
        total = errors.sum(2)
        flipped, order, count, able = _strongest(total, move, errors.abs())
        shift = flipped * move
    if channel and kernel:
        errors = errors + shift
        rest = errors.sum(2)
        over = rest.sign() == -total.sign()  # flipped too far: the last flip may be undone; else the next element may be flipped
        position = order.gather(2, (count - over.long()).clamp_(0, errors.shape[2] - 1)[..., None])
        usable = over | (count < able)
        move = -rest.sign() * usable
        flipped = _strongest(rest.sum(1), move, errors.gather(2, position)[..., 0].abs())[0]
        shift.scatter_add_(2, position, (flipped * move)[..., None])
    elif channel:
        move = move.flatten(1)
        shift = (_strongest(errors.sum((1, 2)), move, errors.flatten(1).abs())[0] * move).view_as(errors)
    return shift


def _strongest(total: Tensor, move: Tensor, priority: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In every row, the round(|total|) candidates of highest priority with a move (-1, 0 or 1) that reduces the row's total.

    Returns:
        Mask of those; the row's elements by priority; how many were taken; how many candidates there were.
    """
    candidate = (move == -total.sign()[..., None]) & (move != 0)
    order = priority.masked_fill(~candidate, -1.0).argsort(dim=-1, descending=True, stable=True)
    able = candidate.sum(-1)
    count = torch.minimum(total.abs().round().long(), able)
    first = torch.arange(order.shape[-1], device=order.device) < count[..., None]
    return torch.zeros_like(candidate).scatter_(-1, order, first), order, count, able


def _round(rows: Tensor, grid: Grid, kernel: bool, channel: bool) -> Tensor:
    """Codes of some output channels (M, N, K), int32: stage E, then K and C."""
    codes = grids.encode(rows, grid)
    errors = (codes - grid.zero_point).double() - rows * grid.scale.reciprocal()
    errors = errors.mul_(_FINEST).round_().div_(_FINEST).masked_fill_(grid.zero_point.abs() >= _FAR, 0.0)
    return (codes + flips(errors, codes < grid.high, codes > grid.low, kernel, channel)).int()


def _by_channel(weight: Tensor, transposed: bool, groups: int) -> Tensor:
    """Output channels x kernels x elements of a kernel; a linear layer's kernels have one element."""
    if not transposed:
        return weight.reshape(weight.shape[0], weight.shape[1], -1)
    inner, outer = weight.shape[0] // groups, weight.shape[1]
    return weight.reshape(groups, inner, outer, -1).transpose(1, 2).reshape(groups * outer, inner, -1)


def _as_weight(rows: Tensor, shape: torch.Size, transposed: bool, groups: int) -> Tensor:
    """The inverse of :func:`_by_channel`."""
    if not transposed:
        return rows.reshape(shape)
    inner, outer = shape[0] // groups, shape[1]
    return rows.reshape(groups, outer, inner, -1).transpose(1, 2).reshape(shape)


def _per_row(values: Tensor, rows: int, transposed: bool, groups: int) -> Tensor:
    """Scale or zero_point per output channel, (M, 1, 1). In a transposed convolution, equal indices in a group share one."""
    values = values.flatten()
    if len(values) == 1:
        return values.expand(rows)[:, None, None]
    return (values.repeat(groups) if transposed else values)[:, None, None]
