"""The synthesizer ``adadfq``: GDFQ's generators and alternation, with a loss on teacher and student."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from zsq_gdfq.synth import Gdfq

from zsq.types import Context, View
from zsq_adadfq import AdadfqOptions
from zsq_adadfq.losses import shortfall

#: If no image is further than this from the maximum entropy, teacher and student count as agreeing on all.
_EVEN = 1e-6


class Adadfq(Gdfq):
    """AdaDFQ: hard targets (N,) as in GDFQ; the generator's step runs the student once, with a gradient for the images only.

    During the warm-up the student's weights are quantized, its activations are not yet.
    """

    options: AdadfqOptions
    needs = frozenset({"teacher.output", "teacher.bn", "student.output"})

    def __init__(self, options: AdadfqOptions, ctx: Context) -> None:
        super().__init__(options, ctx)
        self.cadence = replace(self.cadence, observes=options.observes)

    def loss(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """L_G = L_m + beta · (alpha_ds · L_ds + alpha_as · L_as) + bns_weight · L_BNS, from logits z_p and z_q.

        L_m keeps the normalised entropy of softmax(z_p - z_q) in its band. L_ds is the cross-entropy of z_p - z_q with the
        labels, over images that only the teacher classifies correctly; L_as the one of z_p + z_q, over images that both do.
        Each is a mean over its own images, 0 without any (inferred). There is no cross-entropy of the teacher alone.
        """
        o = self.options
        assert view.teacher is not None and view.student is not None and view.batch.targets is not None
        z_p, z_q = (view.task.logits(trace.output).float() for trace in (view.teacher, view.student))
        labels, off = view.batch.targets, z_p - z_q
        right, also = z_p.argmax(1) == labels, z_q.argmax(1) == labels
        margin = outside(agreement(off), o.lambda_l, o.lambda_u)
        disagree = mean_of(F.cross_entropy(off, labels, reduction="none"), right & ~also)
        agree = mean_of(F.cross_entropy(z_p + z_q, labels, reduction="none"), right & also)
        bns = self.bns_distance(view.teacher.bn)
        total = margin + o.beta * (o.alpha_ds * disagree + o.alpha_as * agree) + o.bns_weight * bns
        return total, {"g_margin": margin, "g_ds": disagree, "g_as": agree, "g_bns": bns}


def agreement(off: Tensor) -> Tensor:
    """H' (N,) of differences of logits (N, C): entropy of their softmax (temperature 1) from the batch's least to log C, as 0 to 1.

    (H - min H) / (log C - min H) is 1 - (log C - H) / max (log C - H), with the gradient through the maximum too. It depends
    on the batch and its size. 1 for all images if all differences are constant over classes.
    """
    lacking = shortfall(off)
    return 1 - lacking / lacking.amax().clamp_min(_EVEN)


def outside(values: Tensor, low: float, high: float) -> Tensor:
    """Mean distance by which values lie below ``low`` or above ``high``."""
    return F.relu(low - values).mean() + F.relu(values - high).mean()


def mean_of(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values (N,) that the mask selects, 0 if it selects none; no indexing, so nothing waits for the device."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)
