"""The plainest synthesizer: Gaussian noise."""

from __future__ import annotations

import torch

from zsq.builtin.options import NoiseOptions
from zsq.types import Batch, Context


class Noise:
    """Independent Gaussian pixels in the normalised input space, without targets."""

    def __init__(self, options: NoiseOptions, ctx: Context) -> None:
        self.std, self.ctx = options.std, ctx

    def sample(self, n: int) -> Batch:
        """``n`` images, new ones at every call."""
        shape = (n, *self.ctx.teacher.inputs.shape)
        return Batch(self.std * torch.randn(shape, generator=self.ctx.rng, device=self.ctx.device))
