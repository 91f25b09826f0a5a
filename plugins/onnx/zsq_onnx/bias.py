"""Chooses integer biases that give the same output codes as the float biases.

Sums of products are integers, and so is the bias beside them: a multiple of ``s_act * s_weight``. Rounding it moves every sum by up to
half such a step, which at 4 bits is enough to push one value in a thousand over the edge to the next code.

Three liberties make up for it. Symmetric weight codes below 8 bits may be multiplied by an integer ``m``, and their scale divided by it,
as far as the int8 container and 16-bit sums of two products allow: the values stay and the step of the bias gets finer. The bias may be
any number, and the scale may differ by a trifle, as long as every possible sum stays on the same side of every edge between two output
codes: the sums being integers, there is room around the float bias and the scale. Per channel, the ``m`` and the integer that leave
most room are taken, with the scale in the middle of it. At 8 bits, with many edges, there is no room; there the bias of a
student for deployment is an integer already (``zsq.placement._biases``), and of any other the nearest is taken.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from zsq.grids import ActPoint
from zsq.placement import ROOMY
from zsq_onnx.emitter import Codes

#: Largest integer bias: leaves room for the sum of products in 32 bits.
_LARGEST = 2.0**30
#: A bias that is so near to a whole number of steps was rounded in the student: as near as float32 comes to it.
_NEAR = 0.02
#: Largest change of a scale.
_STRETCH = 0.01


class Weight(NamedTuple):
    """``(codes - zero_point) * scale``, codes in the weight's shape; scale and zero point per output channel."""

    codes: np.ndarray[Any, Any]
    scale: np.ndarray[Any, Any]
    zero_point: np.ndarray[Any, Any]


def with_integer_bias(weight: Weight, bias: Any, codes: Codes, after: ActPoint | None) -> tuple[Weight, Any, Any]:
    """The weight with codes multiplied, the integer bias (int32) and its scale (float32), both per output channel.

    Args:
        weight: Symmetric codes.
        bias: Float bias per output channel.
        codes: What the layer reads.
        after: The point that its output goes into; None if the output stays in float.
    """
    weight = _bounded(weight, bias, codes)
    step = np.float64(codes.scale) * weight.scale
    exact, rows = bias / step, np.arange(len(step))
    factors = np.arange(1, _most(weight, codes) + 1)
    numbers = np.rint(factors * exact[:, None])
    gaps = np.abs(numbers / factors - exact[:, None])
    nearest = np.where(gaps < _NEAR, 0, gaps).argmin(1)  # of those that are near enough, the first
    chosen, integer, ratio = factors[nearest], numbers[rows, nearest], np.ones(len(step))
    if after is not None and after.bits <= ROOMY:
        numbers = (numbers[:, :, None] + np.arange(-1, 2)).reshape(len(step), -1)  # two more beside each
        multiples = np.repeat(factors, 3)
        low, high = _room(weight, codes, exact, step, numbers / multiples, after)
        best = (high - low).argmax(1)
        low, high = low[rows, best], high[rows, best]
        found = (high > low) & (step > 0)
        chosen, integer = np.where(found, multiples[best], chosen), np.where(found, numbers[rows, best], integer)
        ratio = np.where(found, 2 / (low + high), ratio)
    wide = chosen.reshape(-1, *(1,) * (weight.codes.ndim - 1))
    result = Weight(weight.codes * wide, weight.scale * ratio / chosen, weight.zero_point)
    return result, integer.astype(np.int32), (codes.scale * result.scale.astype(np.float32)).astype(np.float32)


def _room(weight: Weight, codes: Codes, exact: Any, step: Any, biases: Any, after: ActPoint) -> tuple[Any, Any]:
    """How far the scale may shrink or grow, per channel and candidate: limits of (scale / new scale), empty if low > high.

    Args:
        weight: Gives the sums that can occur.
        codes: What the layer reads.
        exact: Float bias in steps, per channel.
        step: Value of one step, per channel.
        biases: Candidates in steps (channels, candidates).
        after: Gives the edges.
    """
    grid = after.grid
    edges = (np.arange(grid.low + 1, grid.high + 1) - 0.5 - grid.zero_point.item()) * np.float64(grid.scale.item())
    edges = edges / step[:, None]  # in steps
    passing = np.ceil(edges - exact[:, None])  # the smallest sum that gets over each edge
    flat = np.abs(weight.codes.reshape(len(step), -1)).sum(1, keepdims=True) * codes.high
    counts = (np.abs(passing) <= flat) & (edges != 0)  # the others are out of reach
    over = (passing[:, None] + biases[..., None]) / np.where(counts, edges, 1)[:, None]
    under = (passing[:, None] - 1 + biases[..., None]) / np.where(counts, edges, 1)[:, None]
    lowest = np.where(counts[:, None], np.minimum(over, under), 1 - _STRETCH).max(2)
    highest = np.where(counts[:, None], np.maximum(over, under), 1 + _STRETCH).min(2)
    return np.maximum(lowest, 1 - _STRETCH), np.minimum(highest, 1 + _STRETCH)


def _most(weight: Weight, codes: Codes) -> int:
    """The largest factor: codes within int8, and two products within 16 bits, which processors without VNNI add up in."""
    largest = int(np.abs(weight.codes).max(initial=1))
    return max(1, min(127 // largest, (2**15 - 1) // (2 * largest * codes.high)))


def _bounded(weight: Weight, bias: Any, codes: Codes) -> Weight:
    """A channel whose bias would not fit into 32 bits, on a coarser step: BatchNorm all but closed it, the bias is all there is to see."""
    found, scale = weight.codes.copy(), weight.scale.copy()
    coarser = np.abs(bias) * _most(weight, codes) / (np.abs(scale) * np.float64(codes.scale) * _LARGEST)
    for channel in np.flatnonzero(coarser > 1):
        found[channel] = np.rint(found[channel] / coarser[channel])
        scale[channel] *= coarser[channel]
    return Weight(found, scale, weight.zero_point)
