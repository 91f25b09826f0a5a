"""The student's loss ``logit-entropy``, and the entropy term that the generator's loss uses too."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from zsq.types import Context, View
from zsq_adadfq import LogitEntropyOptions


def shortfall(logits: Tensor) -> Tensor:
    """log C - H(softmax(logits)) of every row of (N, C), in [0, log C]: the sum of p · (log p + log C)."""
    log = F.log_softmax(logits, 1)
    return (log.exp() * (log + math.log(logits.shape[1]))).sum(1)


class LogitEntropy:
    """T² · mean_i [log C - H(softmax((z_p - z_q)_i / T))], z_p detached.

    The authors minimise -T² · H alone; with the constant T² · log C the loss is 0 where both agree; the gradient is the same.
    For differences below T it is half the variance over classes of z_p - z_q, about C times GDFQ's divergence at the same
    temperature. It does not depend on the mean of the logits.
    """

    def __init__(self, options: LogitEntropyOptions, ctx: Context) -> None:
        self.temperature = options.temperature

    def __call__(self, view: View) -> Tensor:
        assert view.teacher is not None and view.student is not None
        teacher = view.task.logits(view.teacher.output).float().detach()
        student = view.task.logits(view.student.output).float()
        t = self.temperature
        return t * t * shortfall((teacher - student) / t).mean()
