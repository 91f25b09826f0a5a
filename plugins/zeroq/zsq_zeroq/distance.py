"""Computes the distance of images to the teacher's BatchNorm statistics, in the conventions of several papers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from zsq.errors import ZsqError
from zsq_zeroq import ZeroqOptions
from zsq_zeroq.fused import InputStatistics, input_statistics

#: Added to variances before the square root, on both sides, as in the authors' code, instead of each layer's own eps.
STD_EPS = 1e-6


class Distance:
    """Σ_l [mean_weight · (mean_l - running_mean_l)² + spread_weight · (spread_l - running_spread_l)²], reduced as the options say.

    All layers are compared in one flat vector. The teacher's part is built at the first call, so an instance belongs to one teacher, and
    its statistics must not change.
    """

    def __init__(self, options: ZeroqOptions, norms: Mapping[str, _BatchNorm]) -> None:
        self.options, self.norms = options, norms
        self._layers: list[str] | None = None
        self._counts: list[int] = []
        self._goal = self._weight = self._correction = torch.empty(0)

    def __call__(self, seen: InputStatistics) -> Tensor:
        """The distance (a scalar), differentiable in the statistics.

        Raises:
            ZsqError: If no BatchNorm layer ran.
        """
        o = self.options
        if seen.layers != self._layers or seen.counts != self._counts:
            self._lay_out(seen)
        var = seen.var * self._correction if o.unbiased else seen.var
        spread = (var + STD_EPS).sqrt() if o.spread == "std" else var
        off = torch.cat([seen.mean, spread], -1) - self._goal
        distances = (off * off) @ self._weight
        return distances.sum() if o.over_images == "sum" else distances.mean()

    def _lay_out(self, seen: InputStatistics) -> None:
        o = self.options
        if not seen.layers:
            raise ZsqError("the teacher's forward pass runs no BatchNorm layer", "the synthesizer", "use --synth noise")
        norms: list[Any] = [self.norms[path] for path in seen.layers]
        mean = torch.cat([norm.running_mean.detach().float() for norm in norms])
        var = torch.cat([norm.running_var.detach().float() for norm in norms])
        sizes = torch.tensor([len(norm.running_mean) for norm in norms], device=mean.device)
        divisors = (len(norms) if o.over_layers == "mean" else 1) * (sizes if o.over_channels == "mean" else torch.ones_like(sizes))
        weight = (1 / divisors).repeat_interleave(sizes)
        factors = torch.tensor([n / max(n - 1, 1) for n in seen.counts], device=mean.device)
        self._correction = factors.repeat_interleave(sizes)
        self._goal = torch.cat([mean, (var + STD_EPS).sqrt() if o.spread == "std" else var])
        self._weight = torch.cat([weight * o.mean_weight, weight * o.spread_weight])
        self._layers, self._counts = seen.layers, seen.counts


def input_distance(x: Tensor, options: ZeroqOptions) -> Tensor:
    """Layer 0 of equation 3: mean² + (std - 1)² of each colour, summed over colours, averaged over images."""
    seen = input_statistics(x, options.statistics == "image")
    (n,) = seen.counts
    var = seen.var * (n / max(n - 1, 1)) if options.unbiased else seen.var
    off = seen.mean.square() + ((var + STD_EPS).sqrt() - 1).square()
    return off.sum(-1).mean()
