"""The synthesizer ``noise``: Gaussian images, the baseline that every other one has to beat."""

from __future__ import annotations

import torch

from zsq.builtin.options import NoiseOptions
from zsq.types import Batch, Context


class Noise:
    """Independent normal values in the teacher's normalised space; no targets."""

    def __init__(self, options: NoiseOptions, ctx: Context) -> None:
        self.std, self.ctx = options.std, ctx

    def sample(self, n: int) -> Batch:
        """``n`` images (N, C, H, W) of standard deviation ``std``, in channels_last."""
        noise = torch.randn((n, *self.ctx.teacher.inputs.shape), generator=self.ctx.rng, device=self.ctx.device)
        return Batch(noise.mul_(self.std).contiguous(memory_format=torch.channels_last))
