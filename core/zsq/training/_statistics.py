"""BatchNorm statistics: of a batch in one fused pass, and their distance to a teacher's running statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zsq.types import BnStats


class ChannelStats(torch.autograd.Function):
    """Mean and biased variance per channel (dimension 1) of (N, C, ...), in float32; both are differentiable.

    One fused pass forward and one backward, d/dx = dmean / n + 2 (x - mean) dvar / n, instead of the chain of
    ``var_mean``, which on a CPU in channels_last bf16 costs more than the convolutions around it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.new_zeros(x.shape[1], dtype=torch.float32)
        mean, var = torch.batch_norm_update_stats(x, channels, channels.clone(), 1.0)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        slope = grads[1] * (2 / n)
        offset = grads[0] / n - slope * mean
        zero = torch.zeros_like(mean)
        return torch.batch_norm(x, slope, offset, zero, zero + 1, False, 0.0, 0.0, False)


def channel_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of ``x`` (N, C, ...) over all dimensions except the second, in float32."""
    return ChannelStats.apply(x)  # type: ignore[no-any-return,no-untyped-call]


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """Path to BatchNorm layer, for every layer with running statistics."""
    return {path: m for path, m in module.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}


class BnsDistance:
    """(1/L) Σ_l [MSE(mean_l, running_mean_l) + MSE(var_l, running_var_l)], MSE averaged over channels (GDFQ, equation 4).

    Variances, not standard deviations; every BatchNorm layer has the same weight. All layers are compared in one flat vector instead of
    four small operations each. The running statistics are flattened once, so use one instance for one frozen teacher.
    """

    def __init__(self) -> None:
        self._running: list[Tensor] = []
        self._goal = self._weight = torch.empty(0)

    def __call__(self, bn: Mapping[str, BnStats]) -> Tensor:
        """The distance (a scalar); differentiable in ``mean`` and ``var``."""
        assert bn, "no BatchNorm statistics were captured"
        layers = bn.values()
        running = [s.running_mean for s in layers] + [s.running_var for s in layers]
        if len(running) != len(self._running) or any(a is not b for a, b in zip(running, self._running, strict=True)):
            weights = [torch.full_like(r, 1 / (len(layers) * r.numel())) for r in running]
            self._goal, self._weight = torch.cat(running).detach(), torch.cat(weights)
            self._running = running
        off = torch.cat([s.mean for s in layers] + [s.var for s in layers]) - self._goal
        return (off * off).dot(self._weight)


def bns_distance(bn: Mapping[str, BnStats]) -> Tensor:
    """:class:`BnsDistance` once, without keeping anything."""
    return BnsDistance()(bn)
