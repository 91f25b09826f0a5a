"""Logits of two networks, what a loss sees of them, the student's loss, and the entropy of their difference as the paper writes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from zsq_adadfq import LogitEntropyOptions
from zsq_adadfq.losses import LogitEntropy

from zsq.testing.world import make_teacher
from zsq.types import Batch, BnStats, Trace, View


def logits(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def view(z_p: Tensor, z_q: Tensor, targets: Tensor | None = None) -> View:
    """What a loss sees where teacher and student say ``z_p`` and ``z_q``; BatchNorm statistics are off by 1 and by 2."""
    bn = {"bn": BnStats(torch.ones(4), 2 * torch.ones(4), torch.zeros(4), torch.zeros(4))}
    return View(Batch(z_p, targets), Trace(z_p, {}, bn), Trace(z_q), make_teacher(classes=z_p.shape[1]).task)


def entropy_loss(z_p: Tensor, z_q: Tensor, temperature: float = 20.0) -> Tensor:
    """The student's loss where teacher and student say ``z_p`` and ``z_q``."""
    return LogitEntropy(LogitEntropyOptions(temperature=temperature), None)(view(z_p, z_q))  # type: ignore[arg-type]


def entropy(d: Tensor) -> Tensor:
    p = d.double().softmax(1)
    return -(p * p.log()).sum(1)


def published(d: Tensor) -> Tensor:
    """H' as the paper writes it, in float64."""
    h = entropy(d)
    return (h - h.min()) / (math.log(d.shape[1]) - h.min())
