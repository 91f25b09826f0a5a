"""Layers with one kind of grid: the codes of their weights, and how many codes a step changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from zsq import grids
from zsq.grids import Grid

ALL = slice(None)
#: Largest share of weights near a threshold for which counting these alone is faster.
_FEW = 1 / 6
#: Weights this close to the ends of their range, in steps of the grid, may become the ends.
_END = 0.5


@dataclass
class _EqualRows:
    """The rows of layers with equally long rows, layer after layer. Each tensor is a part of the group's vector, as (rows, length).

    Args:
        layers: Indices of the layers in the group.
        ends: For each layer the index after its last row, counted from the first row here.
        rows: Indices of the rows in the group.
    """

    layers: range
    ends: list[int]
    rows: slice
    at: Tensor
    direction: Tensor
    codes: Tensor
    moved: Tensor
    off: Tensor
    end: Tensor
    speed: Tensor

    def span(self, wanted: list[bool] | None) -> slice | None:
        """The rows from the first to the last layer that is wanted, None if none is."""
        if wanted is None:
            return ALL
        layers = [i for i, layer in enumerate(self.layers) if wanted[layer]]
        return slice(self.ends[layers[0] - 1] if layers[0] else 0, self.ends[layers[-1]]) if layers else None


class GridGroup:
    """Layers with grids of ``bits``, symmetric or not, one grid per row: from the row's minimum and maximum, or ``fixed``, with parts
    (rows, 1).

    Args:
        counts: Rows of every layer.
        lengths: Length of a row in every layer, equal ones side by side.
        at: Weights, layer after layer.
        direction: Direction of a step, shaped like ``at``. The caller changes both in place.
        codes: Codes of ``at``, updated by :meth:`encode`.
    """

    def __init__(self, bits: int, symmetric: bool, fixed: Grid | None, counts: list[int], lengths: list[int], at: Tensor,
                 direction: Tensor, codes: Tensor) -> None:  # fmt: skip
        self.bits, self.symmetric, self.fixed = bits, symmetric, fixed
        self.at, self.direction, self.codes = at, direction, codes
        self._moved, self._off, self._end, self._speed = torch.zeros(4, len(at), device=at.device)
        sizes = torch.tensor(counts)
        self.layer = torch.repeat_interleave(torch.arange(len(counts)), sizes).to(at.device)
        self.row = torch.repeat_interleave(torch.arange(len(self.layer)), torch.tensor(lengths)[self.layer.cpu()]).to(at.device)
        self.bounds = np.cumsum([0, *(n * length for n, length in zip(counts, lengths, strict=True))])
        self._counts = sizes.double().to(at.device)
        self._lo, self._hi, self._inverse, self._far, self._changed = torch.zeros(5, len(self.layer), 1, device=at.device)
        self._ends = np.empty(0, dtype=np.int64)
        self._groups = list(self._grouped(counts, lengths))

    def grid(self, lo: Tensor, hi: Tensor) -> Grid:
        """The grids of rows with this minimum and maximum, or the fixed grids."""
        if self.fixed is not None:
            return self.fixed
        return grids.symmetric(lo, hi, self.bits) if self.symmetric else grids.asymmetric(lo, hi, self.bits)

    def encode(self, prepare: bool) -> None:
        """Update the codes of ``at``.

        Args:
            prepare: Also compute what :meth:`near_threshold` needs: the distance of each weight from its code (0.5 on a threshold), and
                the weights at the ends of their row.
        """
        for g in self._groups:
            torch.amin(g.at, 1, keepdim=True, out=self._lo[g.rows])  # aminmax along a dimension is ten times slower
            torch.amax(g.at, 1, keepdim=True, out=self._hi[g.rows])
        grid = self.grid(self._lo, self._hi)
        inverse = torch.reciprocal(grid.scale, out=self._inverse)
        for g in self._groups:
            torch.mul(g.at, inverse[g.rows], out=g.codes)
        torch.round(self.codes, out=self._moved)
        if prepare:
            torch.sub(self.codes, self._moved, out=self._off).abs_()
        if prepare and self.fixed is None:
            middle, half = (self._lo + self._hi).mul_(inverse).div_(2), (self._hi - self._lo).mul_(inverse).div_(2)
            for g in self._groups:
                torch.sub(g.codes, middle[g.rows], out=g.end)
            self._end.abs_()
            for g in self._groups:
                g.end.sub_(half[g.rows])
            self._ends = _at_least(-_END, self._end)
        for g in self._groups:
            torch.add(g.moved, grid.zero_point[g.rows], out=g.codes)
        self.codes.clamp_(grid.low, grid.high)

    def move(self, lengths: Tensor) -> None:
        """Make a step; ``lengths`` is (layers,). The codes stay as they are."""
        rows = lengths[self.layer, None]
        for g in self._groups:
            torch.mul(g.direction, rows[g.rows], out=g.moved)
        self.at.sub_(self._moved)

    def flips(self, lengths: Tensor, wanted: list[bool] | None) -> Tensor:
        """How many codes of each layer change in a step of ``lengths``, (layers,) float64; other layers keep their last count."""
        rows = lengths[self.layer, None]
        for g in self._groups:
            if (part := g.span(wanted)) is not None:
                moved = torch.mul(g.direction[part], rows[g.rows][part], out=g.moved[part])
                torch.sub(g.at[part], moved, out=moved)
                grid = self.grid(moved.amin(1, keepdim=True), moved.amax(1, keepdim=True))
                scale, zero_point = (v if self.fixed is None else v[g.rows][part] for v in (grid.scale, grid.zero_point))
                moved.mul_(scale.reciprocal()).round_().add_(zero_point).clamp_(grid.low, grid.high).ne_(g.codes[part])
                torch.sum(moved, 1, keepdim=True, out=self._changed[g.rows][part])
        return torch.zeros_like(self._counts).index_add_(0, self.layer, self._changed.view(-1).double())

    def aim(self) -> Tensor:
        """Read the new direction; per layer, the grid steps of a row's fastest weight per unit of length, mean over rows, float64."""
        torch.abs(self.direction, out=self._speed)
        for g in self._groups:
            torch.amax(g.speed, 1, keepdim=True, out=self._far[g.rows])
        fastest = (self._far * self._inverse).view(-1).double()
        return torch.zeros_like(self._counts).index_add_(0, self.layer, fastest).div_(self._counts)

    def near_threshold(self, reach: Tensor) -> NearThreshold | None:
        """The weights whose codes may change in a step along the direction, up to a length of ``reach``, (layers,); None if many."""
        reach = reach[self.layer, None]
        speed, drift, ends = reach * self._inverse * 1.07, self._slip(), None
        if self.fixed is None:
            unwatched = ~((self._far * speed).mul_(2).add_(drift) < _END)
            ends = torch.from_numpy(self._all_of(unwatched) if unwatched.any() else self._ends)
            speeds, row = self._speed.index_select(0, ends), self.row.index_select(0, ends)
            shift = torch.zeros(len(self.layer)).scatter_reduce_(0, row, speeds, "amax")[:, None].mul_(reach)
            drift = self._drift(shift)
        for g in self._groups:
            torch.mul(g.speed, speed[g.rows], out=g.moved)
        self._moved.add_(self._off)
        for g in self._groups:
            g.moved.add_(drift[g.rows])
        near = _at_least(0.5, self._moved)
        return NearThreshold(self, torch.from_numpy(near), ends) if len(near) <= _FEW * len(self._moved) else None

    def _all_of(self, rows: Tensor) -> np.ndarray:
        """The weights at the ends, and all of these rows."""
        whole = torch.zeros_like(self._far).masked_fill_(rows, torch.inf)
        for g in self._groups:
            torch.add(g.end, whole[g.rows], out=g.moved)
        return _at_least(-_END, self._moved)

    def _slip(self) -> Tensor:
        """A generous bound on the float32 rounding error of weights on their grid, in steps of the grid; (rows, 1).

        With t = w / scale at most A and codes up to H, the error is about (1 + A / H) * A * 2**-21 if the range is the difference
        of large numbers.
        """
        return torch.maximum(self._lo.abs(), self._hi.abs()).mul_(self._inverse).add_(1).square_().mul_(2.0**-19)

    def _drift(self, shift: Tensor) -> Tensor:
        """Bound on how far weights move on the grid, in its steps, because the grid changes while its ends move by ``shift`` or less.

        With R the range, t = w / scale changes by |t| * |R / R' - 1|, at most A * 2 shift / (R - 2 shift).

        Returns:
            (rows, 1) like ``shift``. Infinity if the zero_point may change, which changes every code; if the range is too narrow to be
            maximum minus minimum; and if it changes by more than a sixteenth.
        """
        first, last = self._lo * self._inverse, self._hi * self._inverse
        far = torch.maximum(first.abs(), last.abs())
        span = (2.0 ** (self.bits - self.symmetric) - 1) / self._inverse
        drift = (2.002 * shift / (span - 2 * shift)).mul_(far).add_(self._slip())
        known = (shift * 33 < span) & (far < 2.0**20) & (span > 4 * grids.NARROWEST)
        if not self.symmetric:
            known &= (first - first.round()).abs_() + drift + shift * self._inverse * 1.07 < 0.5
        return torch.where(known, drift, torch.inf)

    def _grouped(self, counts: list[int], lengths: list[int]) -> Iterator[_EqualRows]:
        layer = row = start = 0
        vectors = (self.at, self.direction, self.codes, self._moved, self._off, self._end, self._speed)
        for length, members in groupby(lengths):
            layers = range(layer, layer + len(list(members)))
            ends = np.cumsum(counts[layers.start : layers.stop]).tolist()
            end = start + ends[-1] * length
            parts = (v[start:end].view(-1, length) for v in vectors)
            yield _EqualRows(layers, ends, slice(row, row + ends[-1]), *parts)
            layer, row, start = layers.stop, row + ends[-1], end


class NearThreshold:
    """The few weights of a group that a step may move over a threshold of their grid; counts the changed codes.

    Args:
        group: All weights.
        indices: The weights whose codes may change, ascending.
        ends: The weights that may become minimum or maximum, at least one per row, ascending; None if the grids are fixed.
    """

    def __init__(self, group: GridGroup, indices: Tensor, ends: Tensor | None) -> None:
        self.group = group
        self.at, self.direction, self.codes = (v.index_select(0, indices) for v in (group.at, group.direction, group.codes))
        self.row = group.row.index_select(0, indices)
        self.bounds = np.searchsorted(indices.numpy(), group.bounds)
        self.counts = np.diff(self.bounds)
        if ends is not None:
            self.end_at, self.end_direction, self.end_row = (v.index_select(0, ends) for v in (group.at, group.direction, group.row))
            self.end_counts = np.diff(np.searchsorted(ends.numpy(), group.bounds))
        self.lo, self.hi = torch.empty(2, len(group.layer))

    def flips(self, lengths: np.ndarray) -> np.ndarray:
        """How many codes of each layer change in a step of ``lengths``, (layers,) float32; same shape."""
        if self.group.fixed is None:
            ends = _moved(self.end_at, self.end_direction, lengths, self.end_counts)
            self.lo.fill_(torch.inf).scatter_reduce_(0, self.end_row, ends, "amin")
            self.hi.fill_(-torch.inf).scatter_reduce_(0, self.end_row, ends, "amax")
        grid = self.group.grid(self.lo, self.hi)
        inverse, zero_point = (v.view(-1).index_select(0, self.row) for v in (grid.scale.reciprocal(), grid.zero_point))
        codes = _moved(self.at, self.direction, lengths, self.counts).mul_(inverse).round_().add_(zero_point).clamp_(grid.low, grid.high)
        changed = np.flatnonzero(codes.numpy() != self.codes.numpy())
        return np.diff(np.searchsorted(changed, self.bounds))


def _moved(at: Tensor, direction: Tensor, lengths: np.ndarray, counts: np.ndarray) -> Tensor:
    """``at - length * direction`` for ``counts`` weights of every length."""
    step = torch.from_numpy(np.repeat(lengths, counts)).mul_(direction)
    return torch.sub(at, step, out=step)


def _at_least(bound: float, x: Tensor) -> np.ndarray:
    """Indices where ``x`` is at least ``bound`` or NaN; twice as fast as ``nonzero``."""
    return np.flatnonzero(~(x.numpy() < bound))
