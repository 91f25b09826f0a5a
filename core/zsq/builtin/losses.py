"""The built-in losses: pure functions of a view, computed in float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from zsq.builtin.options import KdOptions
from zsq.errors import PlanError
from zsq.options import Options
from zsq.types import BnStats, Context, View


class Kd:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)); the teacher takes no gradient.

    ``reduction`` is explicit: ``batchmean`` divides the sum by B, ``mean`` by B x C. The GDFQ line publishes ``mean`` at
    T = 20, which makes its term 400 / C times the batch mean of the divergence.
    """

    def __init__(self, options: KdOptions, ctx: Context) -> None:
        self.options = options

    def __call__(self, view: View) -> Tensor:
        assert view.teacher is not None and view.student is not None
        t = self.options.temperature
        log_p = F.log_softmax(view.task.logits(view.teacher.output).detach().float() / t, 1)
        log_q = F.log_softmax(view.task.logits(view.student.output).float() / t, 1)
        count = log_p.shape[0] * (log_p[0].numel() if self.options.reduction == "mean" else 1)
        return F.kl_div(log_q, log_p, reduction="sum", log_target=True) * (t * t / count)


class Ce:
    """Cross-entropy of the student with the batch's targets: indices (N,), or distributions (N, C) as they are."""

    def __init__(self, options: Options, ctx: Context) -> None:
        pass

    def __call__(self, view: View) -> Tensor:
        return F.cross_entropy(_student(view), _targets(view))


class SoftCe:
    """- sum_c y_c log softmax(student)_c, mean over images (Qimera); indices are taken as one-hot distributions."""

    def __init__(self, options: Options, ctx: Context) -> None:
        pass

    def __call__(self, view: View) -> Tensor:
        logits, targets = _student(view), _targets(view)
        if targets.dim() == 1:
            targets = F.one_hot(targets, logits.shape[1])
        return -(targets.to(logits.dtype) * F.log_softmax(logits, 1)).sum(1).mean()


class Bns:
    """Distance of the batch's BatchNorm input statistics in the teacher to its running statistics (GDFQ's form)."""

    def __init__(self, options: Options, ctx: Context) -> None:
        self.distance = BnsDistance()

    def __call__(self, view: View) -> Tensor:
        assert view.teacher is not None
        return self.distance(view.teacher.bn)


class BnsDistance:
    """(1/L) sum over layers of MSE(mean, running mean) + MSE(variance, running variance), each averaged over channels.

    Biased variance, every BatchNorm layer with the same weight (GDFQ, L_BNS). The running statistics and the weights are
    laid out flat once and kept, so that a call is a handful of operations however deep the teacher is.
    """

    def __init__(self) -> None:
        self._key: tuple[int, ...] = ()
        self._running = self._weights = torch.empty(0)
        self._kept: list[Tensor] = []

    def __call__(self, bn: Mapping[str, BnStats]) -> Tensor:
        stats = list(bn.values())
        key = tuple(id(s.running_mean) for s in stats)
        if key != self._key:
            self._kept = [s.running_mean for s in stats]
            self._running = torch.cat([s.running_mean for s in stats] + [s.running_var for s in stats]).detach()
            once = [torch.full_like(s.running_mean, 1 / (s.running_mean.numel() * len(stats))) for s in stats]
            self._weights, self._key = torch.cat(once + once), key
        flat = torch.cat([s.mean for s in stats] + [s.var for s in stats])
        return torch.dot(self._weights, (flat - self._running).square())


def bns_distance(bn: Mapping[str, BnStats]) -> Tensor:
    """:class:`BnsDistance` of one trace, without keeping anything."""
    return BnsDistance()(bn)


def _student(view: View) -> Tensor:
    assert view.student is not None
    return view.task.logits(view.student.output).float()


def _targets(view: View) -> Tensor:
    if view.batch.targets is None:
        raise PlanError("the loss needs targets, but the batch has none", "the synthesizer", "choose one that provides targets")
    return view.batch.targets
