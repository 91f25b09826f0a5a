"""The weights that a step may bring over a threshold of their grid, few of all, and how many of their codes it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from zsq_ait.family import Family


class Near:
    """Counts what a step changes in ``family``, at the places that matter.

    Args:
        places: Of weights whose codes may change, ascending.
        ends: Of weights that may become extremes, of every row one at least, ascending; None where grids do not follow the weights.
    """

    def __init__(self, family: Family, places: Tensor, ends: Tensor | None) -> None:
        self.family = family
        self.at, self.direction, self.codes = (v.index_select(0, places) for v in (family.at, family.direction, family.codes))
        self.row = family.row.index_select(0, places)
        self.bounds = np.searchsorted(places.numpy(), family.bounds)
        self.counts = np.diff(self.bounds)
        if ends is not None:
            self.end_at, self.end_direction, self.end_row = (v.index_select(0, ends) for v in (family.at, family.direction, family.row))
            self.end_counts = np.diff(np.searchsorted(ends.numpy(), family.bounds))
        self.lo, self.hi = torch.empty(2, len(family.layer))

    def flips(self, lengths: np.ndarray) -> np.ndarray:
        """Codes of each layer that a step of ``lengths`` changes; (layers,) like the float32 ``lengths``."""
        if self.family.fixed is None:
            ends = _moved(self.end_at, self.end_direction, lengths, self.end_counts)
            self.lo.fill_(torch.inf).scatter_reduce_(0, self.end_row, ends, "amin")
            self.hi.fill_(-torch.inf).scatter_reduce_(0, self.end_row, ends, "amax")
        grid = self.family.grid(self.lo, self.hi)
        inverse, zero_point = (v.view(-1).index_select(0, self.row) for v in (grid.scale.reciprocal(), grid.zero_point))
        codes = _moved(self.at, self.direction, lengths, self.counts).mul_(inverse).round_().add_(zero_point).clamp_(grid.low, grid.high)
        changed = np.flatnonzero(codes.numpy() != self.codes.numpy())
        return np.diff(np.searchsorted(changed, self.bounds))


def _moved(at: Tensor, direction: Tensor, lengths: np.ndarray, counts: np.ndarray) -> Tensor:
    """``at - length * direction`` for ``counts`` weights of every length."""
    step = torch.from_numpy(np.repeat(lengths, counts)).mul_(direction)
    return torch.sub(at, step, out=step)
