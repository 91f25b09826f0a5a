"""The objective for one batch of images: teacher statistics, margins around class centres, soft inception, on random crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from zsq_zeroq import ZeroqOptions
from zsq_zeroq.distance import Distance
from zsq_zeroq.fused import RecordedNetwork

from zsq.images import Descent
from zsq.types import Context
from zsq_intraq import IntraqOptions
from zsq_intraq.crops import crop, draw
from zsq_intraq.diversity import catching_features, features, head

#: L_BNS: batch statistics, biased variance, mean over channels and layers.
_BNS = ZeroqOptions(statistics="batch", spread="var", unbiased=False, over_channels="mean", over_layers="mean")


class IntraqDistiller(Descent):
    """L = bns_weight · L_BNS + mdc_weight · L_MDC + sil_weight · L_SIL + hil_weight · L_HIL, at some steps on crops (LOR).

    Call ``begin`` before a batch; ``remember`` adds finished batches to the class centres. A subclass may override ``distance``.
    """

    options: IntraqOptions

    def __init__(self, options: IntraqOptions, ctx: Context) -> None:
        super().__init__(options.iterations, options.lr, options.schedule, options.basis, patience=50)
        self.options, self.ctx = options, ctx
        if options.mdc_weight:
            head(ctx.teacher)  # fail now, not after the first batch
        self.watched = RecordedNetwork(ctx.teacher.module, False)
        self.bns = Distance(_BNS, self.watched.norms)
        self.remembered = 0
        self._sums = torch.empty(0)
        self._counts = torch.zeros(ctx.teacher.task.classes, device=ctx.device)

    # Between batches

    def begin(self, targets: Tensor, rng: torch.Generator) -> None:
        """Draw the target probability of each image of a batch from ``rng``, a CPU generator.

        ``rng`` also decides at each step whether it uses crops; their boxes come from a generator on the device.
        """
        n, eps = len(targets), self.options.eps
        softened = torch.rand(n, generator=rng) < 0.5
        wanted = torch.where(softened, eps + (1 - eps) * torch.rand(n, generator=rng), 1.0)
        self.wanted, self.coin = wanted.to(targets.device), rng
        self.boxes = torch.Generator(targets.device).manual_seed(int(torch.randint(2**62, (), generator=rng)))

    def remember(self, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Add finished batches of (images, targets) to the class centres; the list starts with the batches of earlier calls."""
        for images, targets in batches[self.remembered :]:
            one_hot = F.one_hot(targets, len(self._counts)).float()
            sums = one_hot.T @ features(self.ctx.teacher, images, self.ctx.precision, len(images))
            self._sums = self._sums + sums if self.remembered else sums
            self._counts = self._counts + one_hot.sum(0)
            self.remembered += 1

    def state_dict(self) -> dict[str, Any]:
        """The resumable state, with both random generators."""
        return {**super().state_dict(), "coin": self.coin.get_state(), "boxes": self.boxes.get_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.coin.set_state(state["coin"])
        self.boxes.set_state(state["boxes"])

    # The objective

    def loss(self, x: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and its terms, from one forward; the metric ``apart`` is the mean distance in L_MDC."""
        o, teacher = self.options, self.ctx.teacher
        if float(torch.rand((), generator=self.coin)) < o.lor:
            x = crop(x, draw(len(x), (x.shape[-2], x.shape[-1]), o.eta, self.boxes))
        margins = o.mdc_weight > 0 and self.remembered > 0
        catching: AbstractContextManager[list[Tensor]] = catching_features(teacher) if margins else nullcontext([])
        with self.ctx.precision.autocast(), catching as caught:
            output, seen = self.watched(x)
        logits = teacher.task.logits(output).float()
        terms = {"bns": (o.bns_weight, self.bns(seen))}
        metrics: dict[str, Tensor] = {}
        if margins:
            mdc, metrics["apart"] = self.margins(caught[-1], targets)
            terms["mdc"] = (o.mdc_weight, mdc)
        if o.sil_weight:
            terms["sil"] = (o.sil_weight, self.inception(logits, targets))
        if o.hil_weight:
            terms["hil"] = (o.hil_weight, self.hard(logits, targets))
        loss = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return loss, {"loss": loss.detach(), **{name: term.detach() for name, (_, term) in terms.items()}, **metrics}

    def inception(self, logits: Tensor, targets: Tensor) -> Tensor:
        """L_SIL: squared distance of the softmax probability of each image's class from its target, mean over images."""
        p = F.softmax(logits, 1).gather(1, targets[:, None]).squeeze(1)
        return (p - self.wanted).square().mean()

    def hard(self, logits: Tensor, targets: Tensor) -> Tensor:
        """L_HIL of HAST: mean of (1 - p_y)^gamma · CE; the gradient also goes through the first factor, as in the authors' code."""
        ce = F.cross_entropy(logits, targets, reduction="none")
        difficulty = -torch.expm1(-ce)
        return (difficulty.clamp_min(1e-6) ** self.options.gamma * ce).mean()  # a root has an infinite gradient at 0

    def margins(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """L_MDC: max(lambda_l - D, 0) + max(D - lambda_u, 0), mean over images whose class has a centre; and the mean of D."""
        o = self.options
        has = (self._counts > 0).float()[targets]
        d = self.distance(F.cosine_similarity(features, self._sums[targets], 1))  # the sum has the direction of the mean
        off = F.relu(o.lambda_l - d) + F.relu(d - o.lambda_u)
        count = has.sum().clamp_min(1)
        return (off * has).sum() / count, (d.detach() * has).sum() / count

    def distance(self, cosine: Tensor) -> Tensor:
        """D, the distance of features from their class centre, by the cosine of the angle between them: 1 - cosine. Each (N,)."""
        return 1 - cosine
