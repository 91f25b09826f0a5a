"""IntraQ's objective for one batch of images: teacher statistics, margins around class centres, soft inception, on random crops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from zsq_zeroq import ZeroqOptions
from zsq_zeroq.distance import Distance
from zsq_zeroq.distill import Descent
from zsq_zeroq.fused import Watched

from zsq.errors import ZsqError
from zsq.run.probe import watching_inputs
from zsq.types import Context
from zsq_intraq import IntraqOptions
from zsq_intraq.crops import crop, draw

#: Batch statistics, biased variance, mean over channels and layers.
_CONVENTIONS = ZeroqOptions(
    statistics="batch", spread="var", unbiased=False, over_channels="mean", over_layers="mean", mean_weight=1.0, spread_weight=1.0
)


class IntraqDistiller(Descent):
    """L = bns_weight · L_BNS + mdc_weight · L_MDC + sil_weight · L_SIL, for some steps on crops (LOR).

    Features are what enters the teacher's last layer. A batch is announced by ``start``; ``remember`` takes in those that are
    finished. A subclass may replace ``distance``.
    """

    options: IntraqOptions
    patience = 50

    def __init__(self, options: IntraqOptions, ctx: Context) -> None:
        super().__init__(options, ctx)
        self.watched = Watched(ctx.teacher.module, False)
        self.bns = Distance(_CONVENTIONS, self.watched.norms)
        self.head = _head(ctx) if options.mdc_weight else {}
        self.remembered = 0
        self._sums: Tensor | None = None
        self._counts = torch.zeros(ctx.teacher.task.classes, device=ctx.device)

    # Before a batch

    def start(self, targets: Tensor, rng: torch.Generator) -> None:
        """What is drawn once for a batch: the target probability of each image, from ``rng``, a generator of the CPU."""
        n, eps = len(targets), self.options.eps
        soft = torch.rand(n, generator=rng) < 0.5
        wanted = eps + (1 - eps) * torch.rand(n, generator=rng)
        self.wanted = torch.where(soft, wanted, 1.0).to(targets.device)
        self.coin = rng
        seed = int(torch.randint(2**62, (), generator=rng))
        self.boxes = torch.Generator(targets.device).manual_seed(seed)

    def remember(self, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take finished batches of (images, targets) into the class centres; those known from earlier calls lead the sequence."""
        for images, targets in batches[self.remembered :]:
            features = self.features(images)
            one_hot = F.one_hot(targets, len(self._counts)).float()
            sums = one_hot.T @ features
            self._sums = sums if self._sums is None else self._sums + sums
            self._counts = self._counts + one_hot.sum(0)
            self.remembered += 1

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What enters the teacher's last layer, (N, F), in float32."""
        seen: list[Tensor] = []
        with self.ctx.precision.autocast(), watching_inputs(self.head, lambda _path, _module, x: seen.append(x)):
            self.ctx.teacher.module(images)
        return seen[-1].flatten(1).float()

    # The objective

    def loss(self, x: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        o = self.options
        if float(torch.rand((), generator=self.coin)) < o.lor:
            x = crop(x, draw(len(x), (x.shape[-2], x.shape[-1]), o.eta, self.boxes))
        seen_features: list[Tensor] = []
        with self.ctx.precision.autocast(), watching_inputs(self.head, lambda _path, _module, z: seen_features.append(z)):
            output, seen = self.watched(x)
        bns = self.bns(seen)
        sil = self.inception(self.ctx.teacher.task.logits(output).float(), targets)
        loss = o.bns_weight * bns + o.sil_weight * sil
        metrics = {"bns": bns.detach(), "sil": sil.detach()}
        if self._sums is not None and o.mdc_weight:
            mdc = self.margins(seen_features[-1].flatten(1).float(), targets)
            loss, metrics["mdc"] = loss + o.mdc_weight * mdc, mdc.detach()
        return loss, {"loss": loss.detach(), **metrics}

    def inception(self, logits: Tensor, targets: Tensor) -> Tensor:
        """L_SIL: squared distance of each image's own class probability to its target, mean over images."""
        p = F.softmax(logits, 1).gather(1, targets[:, None]).squeeze(1)
        return (p - self.wanted).square().mean()

    def margins(self, features: Tensor, targets: Tensor) -> Tensor:
        """L_MDC: max(lambda_l - D, 0) + max(D - lambda_u, 0), mean over the images whose class has a centre."""
        assert self._sums is not None
        has = (self._counts > 0).float()[targets]
        cosine = F.cosine_similarity(features, self._sums[targets], 1)  # of the mean as of the sum
        d = self.distance(cosine)
        off = F.relu(self.options.lambda_l - d) + F.relu(d - self.options.lambda_u)
        return (off * has).sum() / has.sum().clamp_min(1)

    def distance(self, cosine: Tensor) -> Tensor:
        """Distance from the class centre, by the cosine of the angle between: 1 - cosine. Each (N,)."""
        return 1 - cosine


def _head(ctx: Context) -> dict[str, torch.nn.Module]:
    if not ctx.teacher.head:
        raise ZsqError(
            "the teacher's last layer is not known, so there are no features", "synthesizer 'intraq'", "--set synth.mdc_weight=0"
        )
    return {ctx.teacher.head: ctx.teacher.module.get_submodule(ctx.teacher.head)}
