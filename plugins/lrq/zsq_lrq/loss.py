"""The loss ``dkd``: decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679), as LRQ uses it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zsq.errors import PlanError
from zsq.types import Context, View
from zsq_lrq import DkdOptions


class Dkd:
    """T² · (alpha · TCKD + beta · NCKD), mean over images; no gradient flows to the teacher's logits.

    With b = [p_y, 1 - p_y] and p~ the softmax over all classes but y, both at temperature T, TCKD = KL(b_teacher || b_student) and
    NCKD = KL(p~_teacher || p~_student). For soft targets, y is the largest class. The authors of DKD remove the class from
    NCKD by lowering its logit by 1000; here it is left out. No probability is subtracted from 1, so very confident networks give
    finite values.
    """

    def __init__(self, options: DkdOptions, ctx: Context) -> None:
        self.options = options

    def __call__(self, view: View) -> Tensor:
        o = self.options
        assert view.student is not None and view.teacher is not None
        if view.batch.targets is None:
            raise PlanError("the loss needs targets, but the batch has none", "synthesizer", "choose one that provides targets")
        classes = view.batch.targets if view.batch.targets.dim() == 1 else view.batch.targets.argmax(1)
        student = view.task.logits(view.student.output).float() / o.temperature
        teacher = view.task.logits(view.teacher.output).float().detach() / o.temperature
        (binary, others), (binary_goal, others_goal) = decoupled(student, classes), decoupled(teacher, classes)
        distance = o.alpha * _divergence(binary, binary_goal) + o.beta * _divergence(others, others_goal)
        share = min(1.0, (view.step + 1) / o.warmup) if o.warmup else 1.0
        return distance * (share * o.temperature**2)


def decoupled(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of b = [p_y, 1 - p_y], (N, 2), and of p~, the softmax over the other classes in their order, (N, C - 1).

    log(1 - p_y) is the logsumexp over the other classes minus the logsumexp over all; exact even if p_y rounds to 1.
    """
    index = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    others = logits.gather(1, index + (index >= classes[:, None]))
    rest = others.logsumexp(1, keepdim=True)
    binary = torch.cat([logits.gather(1, classes[:, None]), rest], 1).log_softmax(1)
    return binary, others - rest


def _divergence(log_ours: Tensor, log_theirs: Tensor) -> Tensor:
    """KL(theirs || ours), mean over images."""
    return F.kl_div(log_ours, log_theirs, reduction="batchmean", log_target=True)
