"""ZAQ's two-level discrepancy between teacher and student: ``logit-l1``, ``crm`` and ``scrm``.

Pure functions of a view. The student minimises them, the generator maximises them. So nothing is detached: if the images require a
gradient, it reaches them through both networks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from zsq.errors import PlanError
from zsq.training import pairs, sum_of
from zsq.types import BnStats, Context, Teacher, View
from zsq_zaq import CrmOptions, OutputOptions, ScrmOptions

#: Weight of the attention term (authors' code).
_MIXED = 0.1

#: Added to variances, so that constant channels have a scale and square roots a finite gradient.
EPS = 1e-5


class LogitL1:
    """D_o = E |teacher(x) - student(x)|_1 on raw logits (paper's output-level discrepancy): not on probabilities: their gradient
    vanishes where both networks are confident. Logits may have pixels, (N, K, ...); the mean is over images and pixels. For a task that
    compares more than logits, the sum of such means, each with weight 1."""

    def __init__(self, options: OutputOptions, ctx: Context) -> None:
        self.summed = options.norm == "l1"

    def __call__(self, view: View) -> Tensor:
        assert view.student is not None and view.teacher is not None
        (student, teacher), *others = pairs(view)
        distance = F.l1_loss(student, teacher)
        return sum_of([distance * student.shape[1] if self.summed else distance, *(F.l1_loss(*pair) for pair in others)])


class _Features:
    """A distance of features at the teacher's taps."""

    def __init__(self, options: ScrmOptions, ctx: Context) -> None:
        self.options = options
        if ctx is not None and ctx.teacher is not None:
            check_taps(ctx.teacher, "losses on features need", 1 if options.last else 2)

    def __call__(self, view: View) -> Tensor:
        assert view.student is not None and view.teacher is not None
        taps = list(view.teacher.features)
        taps = taps if self.options.last else taps[:-1]
        if not taps:
            raise _no_taps("losses on features need", 1 if self.options.last else 2)
        return self.total([self.distance(view.student.features[tap], view.teacher.features[tap]) for tap in taps])

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Of one tap's features (N, C, ...), a scalar."""
        raise NotImplementedError

    def total(self, distances: list[Tensor]) -> Tensor:
        """Of all taps."""
        return torch.stack(distances).sum()


class Crm(_Features):
    """D_f = E Σ_l w_l / C_l² · |R_P - R_Q|_1 with the channel relation maps R of layer l (paper's feature-level discrepancy).

    The paper calls w_l adaptive; we did not have its formula. Reconstructed: the softmax over layers of the discrepancies,
    detached, times the number of layers.
    """

    options: CrmOptions

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.l1_loss(relations(student, self.options.eps), relations(teacher, self.options.eps))

    def total(self, distances: list[Tensor]) -> Tensor:
        layers = torch.stack(distances)
        return (adaptive_weights(layers) * layers).sum() if self.options.layer_weight == "adaptive" else layers.sum()


class Scrm(_Features):
    """The authors' code compares this instead of channel relations: the mean absolute difference of features refined by spatial and
    by channel attention, summed over both and over layers."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = (unit(maps(x), 1, self.options.eps) for x in (student, teacher))
        return F.l1_loss(by_pixels(ours), by_pixels(theirs)) + F.l1_loss(by_channels(ours), by_channels(theirs))


def relations(features: Tensor, eps: float) -> Tensor:
    """Channel relation maps (N, C, C) of features (N, C, ...): R_ij = <f_i, f_j> / (|f_i| |f_j|) over all positions.

    Products first, norms from their diagonal: the large maps are read once and never divided. A channel with a norm below
    ``eps`` has relations of zero and gets no gradient, as in :func:`unit`.
    """
    channels = maps(features).float()
    products = channels @ channels.mT
    squares = products.diagonal(dim1=1, dim2=2)
    inverse = torch.where(squares < eps**2, 0.0, squares.clamp_min(eps**2).rsqrt())
    return products * inverse[:, :, None] * inverse[:, None, :]


def maps(features: Tensor) -> Tensor:
    """Features (N, C, ...) with all positions in one dimension: (N, C, P); P is 1 for features (N, C)."""
    return features.flatten(2) if features.dim() > 2 else features[:, :, None]


def unit(x: Tensor, dim: int, eps: float) -> Tensor:
    """``x`` divided by its norm along ``dim``; where that is below ``eps``, zero.

    A channel that is all zero after a ReLU or a coarse grid then gets no gradient. With max(norm, eps) alone, its gradient times 1 / eps
    would pass through the straight-through estimator.
    """
    norm = x.norm(dim=dim, keepdim=True)
    return torch.where(norm < eps, 0.0, x / norm.clamp_min(eps))


def relative_bns(bn: Mapping[str, BnStats]) -> Tensor:
    """Distance of a batch's statistics to BatchNorm's, every channel in units of its own running standard deviation s; a scalar.

    (1/L) Σ_l mean over channels of ((mean - running_mean) / s)² + (deviation / s - 1)². Ours: squared variances, as GDFQ takes them,
    differ by a factor of a million between the layers of networks whose blocks widen without activation.
    """
    stats = bn.values()
    running = torch.cat([s.running_var for s in stats]) + EPS
    off = (torch.cat([s.mean for s in stats]) - torch.cat([s.running_mean for s in stats])).square() / running
    spread = ((torch.cat([s.var for s in stats]) + EPS) / running).sqrt() - 1
    weight = torch.cat([torch.full_like(s.running_var, 1 / (len(bn) * len(s.running_var))) for s in stats])
    return (off + spread.square()).dot(weight)


def adaptive_weights(distances: Tensor) -> Tensor:
    """Weights (L,) from distances (L,): L · softmax, without gradient; 1 on average."""
    return len(distances) * distances.detach().softmax(0)


def by_pixels(x: Tensor) -> Tensor:
    """``x`` (N, C, P) and a tenth of X Aᵀ with A = row-softmax(Xᵀ X), (P, P) per image.

    The fused attention kernel never holds A, which would need one GiB for one layer of 256 CIFAR images. It needs the channels of
    a pixel to be contiguous, as they are in channels_last.
    """
    pixels = x.mT[:, None].contiguous()
    return x + _MIXED * F.scaled_dot_product_attention(pixels, pixels, pixels, scale=1.0)[:, 0].mT


def by_channels(x: Tensor) -> Tensor:
    """``x`` (N, C, P) and a tenth of A X with A = row-softmax(rowmax(E) - E) and E = X Xᵀ: unlike channels weigh more.

    The softmax does not change when a constant is added to a row, so the row's maximum is left out.
    """
    return x + _MIXED * (-(x @ x.mT)).softmax(2) @ x


def check_taps(teacher: Teacher, who: str, least: int = 1) -> None:
    """Check that a teacher has at least ``least`` taps.

    Raises:
        PlanError: If it has fewer.
    """
    if len(teacher.taps) < least:
        raise _no_taps(who, least, f"teacher {teacher.ref or type(teacher.module).__name__}")


def _no_taps(who: str, least: int, where: str = "the teacher") -> PlanError:
    count = "no taps (no stages or blocks were found)" if least == 1 else "fewer than two taps"
    hint = "--loss logit-l1 and --set synth.features=none --set synth.beta=0 need none" if least == 1 else "set last=true"
    return PlanError(f"{who} teacher.features, but the teacher has {count}", where, hint)
