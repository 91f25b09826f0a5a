"""Rows of weights with one grid each, and the weights near enough to a threshold of it for a step to change a code: few are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zsq.builtin.uniform import affine
from zsq.builtin.uniform.affine import Grid

ALL = slice(None)


@dataclass
class Group:
    """The rows of layers whose rows are equally long, layer after layer.

    Args:
        layers: Which of all.
        ends: Row after the last of each, counted from the group's first.
        rows, own: Which of all rows, and of the family's.
        at, direction, codes, moved, off, end, pace: Parts of the vectors of :class:`~zsq_ait.codes.Codes`, (rows, length).
    """

    layers: range
    ends: list[int]
    rows: slice
    own: slice
    at: Tensor
    direction: Tensor
    codes: Tensor
    moved: Tensor
    off: Tensor
    end: Tensor
    pace: Tensor

    def span(self, wanted: list[bool] | None) -> slice | None:
        """The rows from the first to the last layer that is wanted, None where none is."""
        if wanted is None:
            return ALL
        layers = [i for i, layer in enumerate(self.layers) if wanted[layer]]
        return slice(self.ends[layers[0] - 1] if layers[0] else 0, self.ends[layers[-1]]) if layers else None


@dataclass
class Family:
    """Groups whose grids are of one kind. ``fixed`` is the grids (rows, 1) where ranges do not follow the weights."""

    bits: int
    symmetric: bool
    fixed: Grid | None
    groups: list[Group]
    rows: slice
    values: slice

    def grid(self, lo: Tensor, hi: Tensor) -> Grid:
        """The grids of rows with these extremes, or the ones that were set."""
        if self.fixed is not None:
            return self.fixed
        return affine.symmetric(lo, hi, self.bits) if self.symmetric else affine.asymmetric(lo, hi, self.bits)

    def encode_(self, x: Tensor, own: slice, part: slice = ALL) -> Tensor:
        """Replace values (rows, length) of a ``part`` of the family's ``own`` rows by their codes."""
        grid = self.grid(x.amin(1, keepdim=True), x.amax(1, keepdim=True))
        scale, zero_point = (v if self.fixed is None else v[own][part] for v in (grid.scale, grid.zero_point))
        return x.mul_(scale.reciprocal()).round_().add_(zero_point).clamp_(grid.low, grid.high)

    def slip(self, lo: Tensor, hi: Tensor, inverse: Tensor) -> Tensor:
        """What rounding in float32 may add to where a weight is on its grid, with room to spare, in steps of the grid; (rows, 1).

        With t = w * inverse at most A and codes up to H it is some (1 + A / H) * A * 2**-21, where the range is the difference of
        large numbers.
        """
        return torch.maximum(lo.abs(), hi.abs()).mul_(inverse).add_(1).square_().mul_(2.0**-19)

    def drift(self, lo: Tensor, hi: Tensor, inverse: Tensor, shift: Tensor) -> Tensor:
        """How far weights get on a grid that follows, in its steps, from its changes alone, where its ends move by ``shift`` or less.

        With R the range, t = w * inverse changes by |t| * |R / R' - 1|, at most A * 2 shift / (R - 2 shift).

        Returns:
            (rows, 1) like the arguments. Infinity where the zero point may change, which changes every code; where the range is so
            narrow that it may not be the extremes' difference; and where it changes by more than a sixteenth.
        """
        first, last = lo * inverse, hi * inverse
        far = torch.maximum(first.abs(), last.abs())
        span = (2.0 ** (self.bits - self.symmetric) - 1) / inverse
        drift = (2.002 * shift / (span - 2 * shift)).mul_(far).add_(self.slip(lo, hi, inverse))
        known = (shift * 33 < span) & (far < 2.0**20) & (span > 4 * affine.NARROWEST)
        if not self.symmetric:
            known &= (first - first.round()).abs_() + drift + shift * inverse * 1.07 < 0.5
        return torch.where(known, drift, torch.inf)


class Near:
    """Weights of a family, and how many of their codes a step changes, row by row.

    Args:
        found: Their places. The extremes that a row may have after the step are among them, where its range follows.
        row: Of every place, counted from the first of the whole vector, as ``at``, ``direction`` and ``codes`` are the family's.
    """

    def __init__(self, family: Family, found: Tensor, row: Tensor, at: Tensor, direction: Tensor, codes: Tensor) -> None:
        self.family = family
        self.row, self.at, self.direction, self.codes = (v.index_select(0, found) for v in (row, at, direction, codes))
        self.row -= family.rows.start

    def flips(self, lengths: Tensor, out: Tensor) -> None:
        """Codes that change in a step, into ``out``; (rows,) like ``lengths``."""
        moved = lengths.index_select(0, self.row).mul_(self.direction)
        torch.sub(self.at, moved, out=moved)
        lo = hi = lengths
        if self.family.fixed is None:
            lo = torch.full_like(lengths, torch.inf).scatter_reduce_(0, self.row, moved, "amin")
            hi = torch.full_like(lengths, -torch.inf).scatter_reduce_(0, self.row, moved, "amax")
        grid = self.family.grid(lo, hi)
        inverse, zero_point = (v.reshape(-1).index_select(0, self.row) for v in (grid.scale.reciprocal(), grid.zero_point))
        moved.mul_(inverse).round_().add_(zero_point).clamp_(grid.low, grid.high).ne_(self.codes)
        out.zero_().index_add_(0, self.row, moved)
