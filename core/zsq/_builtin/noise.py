"""The synthesizers ``noise``, Gaussian images, the baseline for all others; and ``none``, no images."""

from __future__ import annotations

import torch

from zsq._builtin.options import NoiseOptions
from zsq.errors import PlanError
from zsq.options import Options
from zsq.types import Batch, Context


class Noise:
    """Independent normal values as normalised inputs; no targets."""

    def __init__(self, options: NoiseOptions, ctx: Context) -> None:
        self.std, self.ctx = options.std, ctx

    def sample(self, n: int) -> Batch:
        """``n`` images (N, C, H, W) of standard deviation ``std``, in channels_last."""
        noise = torch.randn((n, *self.ctx.teacher.inputs.shape), generator=self.ctx.rng, device=self.ctx.device)
        return Batch(noise.mul_(self.std).contiguous(memory_format=torch.channels_last))


class NoImages:
    """For chains in which no component uses images."""

    def __init__(self, options: Options, ctx: Context) -> None:
        pass

    def sample(self, n: int) -> Batch:
        """Refused.

        Raises:
            PlanError: Always. The component that asks does not declare the need ``images``.
        """
        raise PlanError("a component asked for images, but there are none", "synthesizer 'none'", "choose a synthesizer: --synth noise")
