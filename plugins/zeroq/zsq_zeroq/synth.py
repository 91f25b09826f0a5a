"""The synthesizer ``zeroq``: a pool of images distilled one batch after another."""

from __future__ import annotations

import torch
from torch import Tensor

from zsq.images import Made, PoolSynth
from zsq_zeroq import ZeroqOptions
from zsq_zeroq.distill import Distiller, start


class Zeroq(PoolSynth[Distiller]):
    """ZeroQ: images from the teacher's BatchNorm statistics.

    Targets are the classes of the class term; without a class term, the classes that the teacher gives to the images. Where the
    task gives images no class, there is no class term.
    """

    name, distribution = "zeroq", "zsq-zeroq"
    options: ZeroqOptions

    def maker(self) -> Distiller:
        return Distiller(self.options, self.ctx)

    def noise(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        return start(self.options.init, shape, rng)

    def finish(self, maker: Distiller, x: Tensor, targets: Tensor) -> Made:
        images = x.detach()
        return images, targets if self.options.class_weight or not self.classed else maker.answers(images)
