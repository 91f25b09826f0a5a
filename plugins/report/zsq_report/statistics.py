"""The distance of batch statistics to the running statistics of BatchNorm layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from zsq.training import channel_stats
from zsq_report.hooks import hooked


class Statistics:
    """Mean and variance per channel of what arrives at every BatchNorm layer, added up over batches."""

    def __init__(self, norms: dict[str, _BatchNorm]) -> None:
        self.norms = norms
        self.sums: dict[str, list[Tensor]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        def watch(path: str, inputs: Any, _output: Any) -> None:
            x = inputs[0].float()
            mean, var = channel_stats(x)
            new = [torch.tensor(float(len(x))), mean * len(x), (var + mean.square()) * len(x)]
            own = self.sums.get(path)
            self.sums[path] = new if own is None else [a + b for a, b in zip(own, new, strict=True)]

        with hooked(self.norms, watch):
            yield

    @property
    def gaps(self) -> dict[str, float]:
        """KL of the normal distribution that arrives from the one that is kept, in nats, on average over channels."""
        found = {}
        for path, (count, first, second) in self.sums.items():
            norm: Any = self.norms[path]
            mean = first / count
            var = (second / count - mean.square()).clamp_min(0) + norm.eps
            kept = norm.running_var.float() + norm.eps
            ratio = var / kept
            found[path] = float((0.5 * (ratio + (mean - norm.running_mean).square() / kept - 1 - ratio.log())).mean())
        return found
