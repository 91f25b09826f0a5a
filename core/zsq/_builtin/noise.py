"""The synthesizers ``noise``, Gaussian images, the baseline that every other one has to beat; and ``none``, no images at all."""

from __future__ import annotations

import torch

from zsq._builtin.options import NoiseOptions
from zsq.errors import PlanError
from zsq.options import Options
from zsq.types import Batch, Context


class Noise:
    """Independent normal values in the teacher's normalised space; no targets."""

    def __init__(self, options: NoiseOptions, ctx: Context) -> None:
        self.std, self.ctx = options.std, ctx

    def sample(self, n: int) -> Batch:
        """``n`` images (N, C, H, W) of standard deviation ``std``, in channels_last."""
        noise = torch.randn((n, *self.ctx.teacher.inputs.shape), generator=self.ctx.rng, device=self.ctx.device)
        return Batch(noise.mul_(self.std).contiguous(memory_format=torch.channels_last))


class NoImages:
    """For chains in which nobody looks at an image."""

    def __init__(self, options: Options, ctx: Context) -> None:
        pass

    def sample(self, n: int) -> Batch:
        """Refused.

        Raises:
            PlanError: Always: whoever asks has not said that it needs ``images``.
        """
        raise PlanError("a component asked for images, but there are none", "synthesizer 'none'", "choose a synthesizer: --synth noise")
