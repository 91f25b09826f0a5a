"""The losses ``kd``, ``mse``, ``ce``, ``soft-ce`` and ``bns``: pure functions of a view, in float32."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from zsq._builtin.options import KdOptions
from zsq.errors import PlanError
from zsq.options import Options
from zsq.training import BnsDistance, pairs, sum_of
from zsq.types import Context, View


class Kd:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)); the teacher's logits get no gradient (Hinton et al., 2015).

    ``batchmean`` divides the sum by the number of images B. ``mean`` divides by B·C with C classes, the hidden factor 1/C in
    the code of GDFQ and its successors: with T = 20 the divergence has the weight 400/C. Every place of logits (N, C, ...) counts as an
    image. For other values of the task, the mean absolute difference is added.
    """

    def __init__(self, options: KdOptions, ctx: Context) -> None:
        self.temperature, self.per_class = options.temperature, options.reduction == "mean"

    def __call__(self, view: View) -> Tensor:
        (student, teacher), *others = pairs(view)
        t = self.temperature
        total = F.kl_div(F.log_softmax(student / t, 1), F.softmax(teacher.detach() / t, 1), reduction="sum")
        count = student.numel() if self.per_class else student.numel() // student.shape[1]
        loss = total * (t * t / count)
        for ours, theirs in others:
            loss = loss + F.l1_loss(ours, theirs.detach())
        return loss


class Mse:
    """Mean over images and classes of (student - teacher)² of the logits; the teacher's get no gradient. For other values of
    the task, the sum of such means."""

    def __init__(self, options: Options, ctx: Context) -> None:
        pass

    def __call__(self, view: View) -> Tensor:
        return sum_of(F.mse_loss(student, teacher.detach()) for student, teacher in pairs(view))


class Ce:
    """Cross-entropy of the student's output with class numbers (N,); targets (N, C) are taken as probabilities."""

    def __init__(self, options: Options, ctx: Context) -> None:
        pass

    def __call__(self, view: View) -> Tensor:
        return F.cross_entropy(_student_logits(view), _targets(view))


class SoftCe:
    """Cross-entropy with soft targets (N, C): mean over images of -Σ_c target · log softmax; class numbers become one-hot."""

    def __init__(self, options: Options, ctx: Context) -> None:
        pass

    def __call__(self, view: View) -> Tensor:
        logits, targets = _student_logits(view), _targets(view)
        if not targets.is_floating_point():
            targets = F.one_hot(targets, logits.shape[1])
        return -(targets * F.log_softmax(logits, 1)).sum(1).mean()


class Bns:
    """Distance of the batch's statistics to the teacher's BatchNorm statistics; see :class:`BnsDistance`."""

    def __init__(self, options: Options, ctx: Context) -> None:
        self.distance = BnsDistance()

    def __call__(self, view: View) -> Tensor:
        assert view.teacher is not None
        return self.distance(view.teacher.bn)


def _student_logits(view: View) -> Tensor:
    assert view.student is not None
    return view.task.logits(view.student.output).float()


def _targets(view: View) -> Tensor:
    if view.batch.targets is None:
        raise PlanError("the loss needs targets, but the batch has none", "synthesizer", "choose one that provides targets")
    return view.batch.targets
