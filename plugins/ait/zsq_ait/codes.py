"""The weights of all layers in one vector, and how many of their integer codes a step would change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsq.builtin.uniform.affine import Grid
from zsq.builtin.uniform.points import WeightPoint
from zsq_ait.near import Family, Group, Near

#: A weight and the point that puts it on its grid.
Layer = tuple[torch.nn.Parameter, WeightPoint]
#: Part of a family's weights that may be near for looking at them alone to pay.
_FEW = 1 / 6
#: Weights are near if steps this many times as long as one that changes the wanted share, roughly, may change their codes.
_AMPLE = 24.0
#: Where a longer step is asked for, how many times as far they are looked for.
_FURTHER = 4.0


@dataclass(frozen=True, order=True)
class _Kind:
    """What layers must share to be counted in one go: the kind of grid, and the length of a row, i.e. of what has one grid."""

    bits: int
    symmetric: bool
    live: bool
    length: int


class Codes:
    """Integer codes of ``layers``, for all of them at once: those of equal row length and grid are one matrix.

    The weights are ``at``, a vector, and their codes ``current``; a step moves them to ``at - length * direction``, with a length
    for each layer. Codes are those that the layer's point would give: a live point takes its range from the weight that it is
    given, so ranges follow the step; a point whose range was set keeps its grid.

    Where looking at a tensor waits for no device, a step's codes are counted among the weights that it may change, see
    :class:`~zsq_ait.near.Near`, if those are few; else in full. The counts are the same.

    Args:
        layers: At least one; the weight's values are copied. ``order`` says which of them comes first in every result.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        kinds = [_kind(*layer) for layer in layers]
        self.order = sorted(range(len(layers)), key=lambda i: kinds[i])
        layers, kinds = [layers[i] for i in self.order], [kinds[i] for i in self.order]
        counts = [weight.numel() // kind.length for (weight, _), kind in zip(layers, kinds, strict=True)]
        device = layers[0][0].device
        self.numel = torch.tensor([weight.numel() for weight, _ in layers], dtype=torch.float64, device=device)
        self.at, self.direction, self.current, self._moved, self._off, self._end, self._pace = torch.zeros(
            7, int(self.numel.sum()), device=device
        )
        self._layer = torch.repeat_interleave(torch.arange(len(layers)), torch.tensor(counts)).to(device)
        self._lo, self._hi, self._inverse, self._far, self._flips = torch.zeros(5, len(self._layer), 1, device=device)
        lengths = torch.tensor([kind.length for kind in kinds], device=device)[self._layer]
        self._row = torch.repeat_interleave(torch.arange(len(self._layer), device=device), lengths)
        self._rows = torch.tensor(counts, device=device)
        self._families = list(self._related(layers, kinds, counts))
        self._near: list[Near | None] = [None] * len(self._families)
        self._reach = np.zeros(len(layers))
        self._layers = layers
        self.free_looks = device.type == "cpu"
        torch._foreach_copy_(self.parts(self.at), [weight.detach() for weight, _ in layers])
        self._encode()

    def parts(self, vector: Tensor) -> list[Tensor]:
        """The layers' parts of a vector like ``at``, as views in the shape of their weights."""
        parts, start = [], 0
        for weight, point in self._layers:
            axis, part = point.axis or 0, vector[start : start + weight.numel()]  # in memory, the dimension of the grids comes first
            parts.append(part.view(weight.movedim(axis, 0).shape).movedim(0, axis))
            start += weight.numel()
        return parts

    def aim(self, share: float, shortest: Any, longest: float) -> None:
        """Get ready to count along ``direction``, which is new.

        Args:
            share: Of the codes that is to change: a guess at how far steps will go, it is no limit.
            shortest: Length of the first step, (layers,) float64.
            longest: Length of the longest step.
        """
        if not self.free_looks:
            return
        torch.abs(self.direction, out=self._pace)
        for family in self._families:
            for group in family.groups:
                torch.amax(group.pace, 1, keepdim=True, out=self._far[group.rows])
        speed = torch.zeros_like(self.numel).index_add_(0, self._layer, (self._far * self._inverse).view(-1).double()).div_(self._rows)
        wanted = (2 / self.numel).clamp_min_(share).mul_(_AMPLE).div_(speed)
        self._reach = np.maximum(wanted.clamp_max_(longest).numpy(), shortest)
        self._look_near()

    def flips(self, lengths: Any, of: Any = None) -> Any:
        """How many codes of each layer change in a step of ``lengths``; (layers,) float64 like ``lengths``, both as :meth:`array` has it.

        Where looking at a tensor waits for no device, layers that are not in the mask ``of`` may keep their last answer.
        """
        if self.free_looks and (beyond := lengths > self._reach).any():
            self._reach = np.where(beyond, _FURTHER * lengths, self._reach)
            self._look_near()
        rows = torch.as_tensor(lengths).float()[self._layer, None]
        wanted = of.tolist() if of is not None and self.free_looks else None
        for family, near in zip(self._families, self._near, strict=True):
            if near is not None:
                near.flips(rows[family.rows, 0], out=self._flips[family.rows, 0])
                continue
            for group in family.groups:
                if (part := group.span(wanted)) is not None:
                    moved = torch.mul(group.direction[part], rows[group.rows][part], out=group.moved[part])
                    torch.sub(group.at[part], moved, out=moved)
                    family.encode_(moved, group.own, part).ne_(group.codes[part])
                    torch.sum(moved, 1, keepdim=True, out=self._flips[group.rows][part])
        return self.array(torch.zeros_like(self.numel).index_add_(0, self._layer, self._flips.view(-1).double()))

    def array(self, x: Tensor) -> Any:
        """A tensor of one number a layer as a NumPy array, quicker to work on, where that waits for no device."""
        return x.numpy() if self.free_looks else x

    def over(self, mask: Any) -> bool:
        """Whether nothing is left in ``mask``; False where looking would have to wait for a device."""
        return self.free_looks and not mask.any()

    def move(self, lengths: Tensor) -> None:
        """Make the step."""
        rows = lengths.float()[self._layer, None]
        for family in self._families:
            for group in family.groups:
                torch.mul(group.direction, rows[group.rows], out=group.moved)
        self.at.sub_(self._moved)
        self._encode()

    def _encode(self) -> None:
        """Codes, and how far every weight is from changing its own, in steps of the grid: ``off`` is 0.5 on a threshold. At the ends
        of a row whose range follows, it is 0.5 as well, and falls as fast."""
        for family in self._families:
            for group in family.groups:
                torch.amin(group.at, 1, keepdim=True, out=self._lo[group.rows])  # aminmax along a dimension is ten times slower
                torch.amax(group.at, 1, keepdim=True, out=self._hi[group.rows])
            lo, hi, inverse = self._lo[family.rows], self._hi[family.rows], self._inverse[family.rows]
            grid = family.grid(lo, hi)
            torch.reciprocal(grid.scale, out=inverse)
            codes, rounded, off, end = (v[family.values] for v in (self.current, self._moved, self._off, self._end))
            for group in family.groups:
                torch.mul(group.at, inverse[group.own], out=group.codes)
            torch.round(codes, out=rounded)
            if self.free_looks:
                torch.sub(codes, rounded, out=off).abs_()
            if self.free_looks and family.fixed is None:
                middle, half = (lo + hi).mul_(inverse).div_(2), (hi - lo).mul_(inverse).div_(2)
                for group in family.groups:
                    torch.sub(group.codes, middle[group.own], out=group.end)
                end.abs_()
                for group in family.groups:
                    group.end.sub_(half[group.own])
            for group in family.groups:
                torch.add(group.moved, grid.zero_point[group.own], out=group.codes)
            codes.clamp_(grid.low, grid.high)

    def _look_near(self) -> None:
        """Gather the weights whose codes may change in a step as far as ``_reach``, family by family, None where those are many."""
        for i, family in enumerate(self._families):
            lo, hi, inverse, far, row = (v[family.rows] for v in (self._lo, self._hi, self._inverse, self._far, self._layer))
            reach = torch.from_numpy(self._reach).float()[row, None]
            speed, slip = reach * inverse * 1.07, family.slip(lo, hi, inverse)
            moved, off, end, row = (v[family.values] for v in (self._moved, self._off, self._end, self._row))
            drift = slip
            if family.fixed is None:
                ends = (far * speed).add_(slip)
                for group in family.groups:
                    torch.mul(group.pace, speed[group.own], out=group.moved)
                moved.add_(end)
                for group in family.groups:
                    group.moved.add_(ends[group.own])
                may_end = ~(moved.numpy() < 0)  # a NaN is near
                places = torch.from_numpy(np.flatnonzero(may_end))
                pace = self._pace[family.values].index_select(0, places)
                row = row.index_select(0, places).sub_(family.rows.start)
                far = torch.zeros(len(lo)).scatter_reduce_(0, row, pace, "amax")[:, None]
                drift = family.drift(lo, hi, inverse, reach * far)
            for group in family.groups:
                torch.mul(group.pace, speed[group.own], out=group.moved)
            moved.add_(off)
            for group in family.groups:
                group.moved.add_(drift[group.own])
            near = ~(moved.numpy() < 0.5)
            found = np.flatnonzero(near | may_end if family.fixed is None else near)  # half the time of nonzero
            few = len(found) <= _FEW * len(moved)
            vectors = (v[family.values] for v in (self._row, self.at, self.direction, self.current))
            self._near[i] = Near(family, torch.from_numpy(found), *vectors) if few else None

    def _related(self, layers: Sequence[Layer], kinds: Sequence[_Kind], counts: Sequence[int]) -> Iterator[Family]:
        layer = row = start = 0
        for (bits, symmetric, live), relatives in groupby(kinds, lambda kind: (kind.bits, kind.symmetric, kind.live)):
            groups, rows_before, start_before, layer_before = [], row, start, layer
            for length, members in groupby(kind.length for kind in relatives):
                size = len(list(members))
                ends = list(accumulate(counts[layer : layer + size]))
                rows, vectors = ends[-1], (self.at, self.direction, self.current, self._moved, self._off, self._end, self._pace)
                parts = [v[start : start + rows * length].view(rows, length) for v in vectors]
                own = slice(row - rows_before, row - rows_before + rows)
                groups.append(Group(range(layer, layer + size), ends, slice(row, row + rows), own, *parts))
                layer, row, start = layer + size, row + rows, start + rows * length
            fixed = None if live else _joined([point.grid for _, point in layers[layer_before:layer]])
            yield Family(bits, symmetric, fixed, groups, slice(rows_before, row), slice(start_before, start))


def _kind(weight: Tensor, point: WeightPoint) -> _Kind:
    rows = 1 if point.axis is None else weight.shape[point.axis]
    return _Kind(point.bits, point.symmetric, point.live, weight.numel() // rows)


def _joined(grids: Sequence[Grid]) -> Grid:
    """One grid for all rows of several layers, (rows, 1)."""
    scale, zero_point = (torch.cat([getattr(g, name).reshape(-1, 1) for g in grids]) for name in ("scale", "zero_point"))
    return Grid(scale, zero_point, grids[0].low, grids[0].high)
