"""Histograms in units of a quantization range: 0 is its lower end and 1 its upper, so that layers can be laid side by side."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Bins over the whole width, and how far to either side of the range they reach; what is farther out counts in the last bin.
BINS, FARTHEST = 72, 1.0
#: Values of one tensor that are counted; beyond, an evenly spread sample of them.
_SAMPLE = 2**19


@dataclass
class Histogram:
    """Counts over [``start``, ``end``] in units of the range [``lo``, ``hi``]: ``counts``, and ``after`` quantization where known."""

    lo: Tensor
    hi: Tensor
    start: float
    end: float
    counts: Tensor = field(default_factory=lambda: torch.zeros(BINS))
    after: Tensor | None = None

    def add(self, x: Tensor, after: bool = False) -> None:
        """Count the values of ``x``."""
        unit = (x - self.lo) / (self.hi - self.lo).clamp_min(1e-12)
        unit = unit.flatten()
        if unit.numel() > _SAMPLE:
            unit = unit[:: -(-unit.numel() // _SAMPLE)]
        found = torch.histc(unit.clamp(self.start, self.end).cpu(), BINS, self.start, self.end)
        if after:
            self.after = found if self.after is None else self.after + found
        else:
            self.counts += found


def of_range(x: Tensor, lo: Tensor, hi: Tensor) -> Histogram:
    """An empty histogram that is wide enough for the range and for the values of ``x``, within :data:`FARTHEST` of the range."""
    unit = (x - lo) / (hi - lo).clamp_min(1e-12)
    low, high = (float(v) for v in torch.aminmax(unit))
    return Histogram(lo, hi, min(0.0, max(low, -FARTHEST)) - 0.02, max(1.0, min(high, 1 + FARTHEST)) + 0.02)
