"""A diagnostic, not a method: the first real images of an evaluation file in the place of synthetic ones.

It answers one question, how far calibration on synthetic images is from calibration on real ones:

    zsq run ... --plugin-file benchmarks/real_images.py --synth real --set synth.path=IMAGES.npz --calib percentile --tune none
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zsq import Component, Options, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class RealOptions(Options):
    path: str = opt("", "An .npz with images uint8 (N, H, W, C) of the teacher's size.")
    images: int = opt(500, "The first so many are used.", ge=1)


class Real:
    """Images in the teacher's normalised space, dealt in shuffled epochs."""

    def __init__(self, options: RealOptions, ctx: Any) -> None:
        import numpy as np
        import torch

        with np.load(options.path) as file:
            pixels = torch.from_numpy(file["images"][: options.images]).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (ctx.teacher.inputs.mean, ctx.teacher.inputs.std))
        self.pool, self.ctx = (pixels - mean) / std, ctx
        self.order = torch.empty(0, dtype=torch.long)

    def sample(self, n: int) -> Any:
        import torch

        from zsq.types import Batch

        while len(self.order) < n:
            self.order = torch.cat([self.order, torch.randperm(len(self.pool), generator=self.ctx.rng)])
        taken, self.order = self.order[:n], self.order[n:]
        return Batch(self.pool[taken].contiguous(memory_format=torch.channels_last))


@hookimpl
def zsq_synthesizers() -> Iterator[Component]:
    yield Component("real", f"{__name__}:Real", RealOptions, "Real images, to compare calibration on synthetic ones with.")
