"""How far images are from the teacher's BatchNorm statistics, in the conventions of the papers that match them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from zsq.errors import ZsqError
from zsq_zeroq import ZeroqOptions
from zsq_zeroq.fused import Seen, plain_stats

#: Added to variances before the square root, on both sides, as the authors' code does in place of each layer's own eps.
STD_EPS = 1e-6


class Distance:
    """Σ_l [mean_weight · (mean_l - running_mean_l)² + spread_weight · (spread_l - running_spread_l)²], reduced as the options say.

    All layers are compared in one flat vector. Its running half is laid out at the first call, so an instance belongs to one
    teacher whose statistics stand still.
    """

    def __init__(self, options: ZeroqOptions, norms: Mapping[str, _BatchNorm]) -> None:
        self.options, self.norms = options, norms
        self._paths: tuple[str, ...] = ()
        self._goal = self._weight = self._correction = torch.empty(0)

    def __call__(self, seen: Mapping[str, Seen]) -> Tensor:
        """The distance (a scalar), differentiable in the statistics.

        Raises:
            ZsqError: When no BatchNorm layer was seen.
        """
        o = self.options
        if tuple(seen) != self._paths:
            self._lay_out(seen)
        var = torch.cat([s.var for s in seen.values()], -1)
        if o.unbiased:
            var = var * self._correction
        spread = (var + STD_EPS).sqrt() if o.spread == "std" else var
        off = torch.cat([*(s.mean for s in seen.values()), spread], -1) - self._goal
        return _over_images((off * off) @ self._weight, o.over_images)

    def _lay_out(self, seen: Mapping[str, Seen]) -> None:
        o = self.options
        if not seen:
            raise ZsqError("no BatchNorm layer of the teacher takes part in its forward", "synthesizer 'zeroq'", "use --synth noise")
        means = [self.norms[path].running_mean.detach().float() for path in seen]  # type: ignore[union-attr]
        spreads = [self.norms[path].running_var.detach().float() for path in seen]  # type: ignore[union-attr]
        if o.spread == "std":
            spreads = [(var + STD_EPS).sqrt() for var in spreads]
        layers = len(seen) if o.over_layers == "mean" else 1
        each = torch.cat([torch.full_like(m, 1 / (layers * (len(m) if o.over_channels == "mean" else 1))) for m in means])
        factors = [s.count / max(s.count - 1, 1) for s in seen.values()]
        self._correction = torch.cat([torch.full_like(m, f) for m, f in zip(means, factors, strict=True)])
        self._goal = torch.cat(means + spreads)
        self._weight = torch.cat([each * o.mean_weight, each * o.spread_weight])
        self._paths = tuple(seen)


def input_distance(x: Tensor, options: ZeroqOptions) -> Tensor:
    """Layer 0 of equation 3: mean² + (std - 1)² of each colour, summed over colours, averaged over images."""
    seen = plain_stats(x, options.statistics == "image")
    var = seen.var * (seen.count / max(seen.count - 1, 1)) if options.unbiased else seen.var
    off = seen.mean.square() + ((var + STD_EPS).sqrt() - 1).square()
    return off.sum(-1).mean()


def _over_images(distances: Tensor, how: str) -> Tensor:
    return distances.sum() if how == "sum" else distances.mean()
