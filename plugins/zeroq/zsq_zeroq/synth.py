"""The synthesizer ``zeroq``: a pool of images that match the teacher's BatchNorm statistics, made batch by batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from zsq.images import Descent, Made, PoolSynth
from zsq.protocols import Classed
from zsq.types import Context
from zsq_zeroq import ZeroqOptions
from zsq_zeroq.distance import Distance, input_distance
from zsq_zeroq.fused import RecordedNetwork


class Distiller(Descent):
    """ZeroQ's objective.

    Statistics are taken at the INPUT of each BatchNorm layer. The authors pair the i-th convolution's output with the i-th
    BatchNorm layer, which is the same only where a BatchNorm layer follows every convolution.
    """

    def __init__(self, options: ZeroqOptions, ctx: Context) -> None:
        o = self.options = options
        self.ctx = ctx
        limits = ctx.teacher.inputs.limits(torch.empty(0, device=ctx.device)) if o.clamp else None
        super().__init__(o.iterations, o.lr, o.schedule, o.basis, limits)
        self.watched = RecordedNetwork(ctx.teacher.module, options.statistics == "image")
        self.distance = Distance(options, self.watched.norms)
        self.classed = isinstance(ctx.teacher.task, Classed)

    def enough(self, metrics: Mapping[str, Tensor]) -> bool:
        """True once the loss is at most ``early_stop`` · (BatchNorm layers + 1)."""
        stop = self.options.early_stop
        return stop is not None and float(metrics["loss"]) <= stop * (len(self.watched.norms) + 1)

    def loss(self, x: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """bn_weight · distance + input_weight · input distance + class_weight · cross-entropy, and its terms."""
        o = self.options
        with self.ctx.precision.autocast():
            output, seen = self.watched(x)
        distance = self.distance(seen)
        loss, metrics = o.bn_weight * distance, {"bns": distance.detach()}
        if o.input_weight:
            loss = loss + o.input_weight * input_distance(x, o)
        if o.class_weight and self.classed:
            ce = F.cross_entropy(self.ctx.teacher.task.logits(output).float(), targets)
            loss, metrics["ce"] = loss + o.class_weight * ce, ce.detach()
        return loss, {"loss": loss.detach(), **metrics}

    @torch.no_grad()
    def answers(self, x: Tensor) -> Tensor:
        """The class that the teacher gives to each image, (N,)."""
        with self.ctx.precision.autocast():
            return self.ctx.teacher.task.logits(self.ctx.teacher.module(x)).argmax(1)


def start(init: str, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """The initial images of ``shape`` for the option ``init``, from a CPU generator.

    ``released``: (integers 0 to 254 - 127.5) / 5418.75. The authors mean to divide by the standard deviation, but 5418.75 is the variance.
    """
    if init == "released":
        return (torch.randint(0, 255, shape, generator=rng).float() - 127.5) / 5418.75
    if init == "uniform":
        return (torch.rand(shape, generator=rng) * 2 - 1) * math.sqrt(3)
    return torch.randn(shape, generator=rng)


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
