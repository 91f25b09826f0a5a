"""Biases as integers, chosen so that the layer gives the same codes as with its float bias.

Sums of products are integers, and so is the bias beside them: a multiple of ``s_act * s_weight``. Rounding it moves every sum by up to
half such a step, which at 4 bits is enough to push one value in a thousand over the edge to the next code.

Two liberties make up for it. Symmetric weight codes below 8 bits may be multiplied by an integer ``m``, and their scale divided by it, as
far as the int8 container and 16-bit sums of two products allow: the values stay and the step of the bias gets finer. And the bias may
be any number that puts every possible sum on the same side of every edge between two output codes: with the sums being integers,
those numbers are an interval around the float bias. Per channel, ``m`` and the integer deepest inside the interval are taken; where no
integer lies inside (usually at 8 bits, where a step is small beside a code), the one nearest to the float bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsq.builtin.uniform.points import ActPoint

if TYPE_CHECKING:
    from zsq_onnx.emit import Codes

#: Largest integer bias: leaves room for the sum of products in 32 bits.
_LARGEST = 2.0**30


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
        after: The point that its output goes into; None where the output stays in float.
    """
    weight = _bounded(weight, bias, codes)
    step = np.float64(codes.scale) * weight.scale
    low, high = _interval(bias / step, step, after)
    factors = np.arange(1, _most(weight, codes) + 1)
    numbers = np.rint(factors * ((low + high) / 2)[:, None])
    depth = np.minimum(numbers / factors - low[:, None], high[:, None] - numbers / factors)
    near = np.rint(factors * (bias / step)[:, None])
    error = np.abs(near / factors - (bias / step)[:, None])
    inside, nearest, rows = depth.argmax(1), error.argmin(1), np.arange(len(step))
    found = depth[rows, inside] > 0
    chosen = np.where(found, factors[inside], factors[nearest])
    integer = np.where(found, numbers[rows, inside], near[rows, nearest])
    wide = chosen.reshape(-1, *(1,) * (weight.codes.ndim - 1))
    result = Weight(weight.codes * wide, weight.scale / chosen, weight.zero_point)
    return result, integer.astype(np.int32), (codes.scale * result.scale.astype(np.float32)).astype(np.float32)


def _interval(exact: Any, step: Any, after: ActPoint | None) -> tuple[Any, Any]:
    """Smallest and largest bias per channel, in steps, that lets every integer sum reach the same output codes as ``exact``."""
    if after is None:
        return exact, exact
    grid = after.grid
    edges = (np.arange(grid.low + 1, grid.high + 1) - 0.5 - grid.zero_point.item()) * np.float64(grid.scale.item())
    edges = edges / step[:, None]  # from one code to the next, in steps
    passing = np.ceil(edges - exact[:, None])  # the smallest sum that gets over each edge
    near, far = edges - passing, edges - passing + 1
    return np.where(step > 0, near.max(1), exact), np.where(step > 0, far.min(1), exact)


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
