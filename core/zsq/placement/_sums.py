"""Stretches the grids of sums of two quantized values slightly, so that no sum lies on a rounding edge between two codes.

With 256 codes on both sides there are 65,536 sums, and every runtime rounds the few that lie within float32's rounding of an edge as it
likes. A step that is longer or shorter by some thousandths of a percent has none of them.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor, fx

from zsq.graph import clamps, op_name, producer
from zsq.grids import ActPoint
from zsq.placement._biases import without_identities

#: Required distance of every sum from every rounding edge, in steps: larger than float32 rounding errors of codes below 256.
_ROOM = 5e-5
#: Number of candidate steps, nearest to the present one first, and the relative distance between them.
_TRIES, _STRETCH = 1024, 1e-5
#: Candidates checked in one batch.
_PART = 16


@torch.no_grad()
def settle_sums(module: fx.GraphModule) -> None:
    """Stretch the range of every point of at most 8 bits that puts the sum of two such points' values on a grid."""
    for node in without_identities(module).nodes:
        point = _point(module, node)
        if point is None:
            continue
        added = node.args[0]
        while clamps(added):
            added = added.args[0]
        operands = [_point(module, producer(value)) for value in added.all_input_nodes]
        if op_name(added) != "add" or added.kwargs or len(operands) != 2:
            continue
        left, right = operands
        if left is not None and right is not None:
            _settle(point, (_values(left).unsqueeze(1) + _values(right)).flatten())


def _settle(point: Any, sums: Tensor) -> None:
    """Use the first candidate with the required distance, else the one with the largest distance."""
    grid = point.grid
    low, high = (bound - float(grid.zero_point) for bound in (grid.low, grid.high))
    scale, best, most = float(grid.scale), 1.0, -1.0
    order = iter([1.0, *(1 + sign * k * _STRETCH for k in range(1, _TRIES // 2) for sign in (1, -1))])
    while (part := list(islice(order, _PART))) and most < _ROOM:
        codes = sums / (scale * torch.tensor(part, dtype=torch.float64)).unsqueeze(1)
        gaps = (codes - codes.floor() - 0.5).abs_().masked_fill_((codes < low) | (codes > high), 1.0).amin(1)
        for stretch, gap in zip(part, gaps.tolist(), strict=True):
            if gap > most and most < _ROOM:
                best, most = stretch, gap
    if best != 1.0:
        point.lo.mul_(best)
        point.hi.mul_(best)
        point._refresh()


def _values(point: Any) -> Tensor:
    """All values that a point can output, float64."""
    grid = point.grid
    codes = torch.arange(grid.low, grid.high + 1, dtype=torch.float64)
    return (codes - float(grid.zero_point)) * float(grid.scale)


def _point(module: fx.GraphModule, node: fx.Node) -> ActPoint | None:
    """The point that a node calls if it has a range and at most 8 bits, else None."""
    called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return called if isinstance(called, ActPoint) and called.ranged and called.bits <= 8 else None
