"""The task of telling classes apart: what a target is, what the logits are, how far a student is from its teacher."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsq.builtin.options import ClassifyOptions
from zsq.types import Context


class Classify:
    """One of ``classes`` classes per image; targets are indices (N,) or distributions (N, classes)."""

    name = "classify"

    def __init__(self, options: ClassifyOptions, ctx: Context | None = None) -> None:
        self.classes = options.classes

    def logits(self, output: Any) -> Tensor:
        """Logits (N, classes) in a network's output: the tensor itself, its ``logits``, or the first of a tuple."""
        if isinstance(output, dict):
            output = output["logits"]
        elif isinstance(output, (tuple, list)):
            output = output[0]
        logits: Tensor = getattr(output, "logits", output)
        return logits

    def targets(self, n: int, rng: torch.Generator) -> Tensor:
        """``n`` labels, uniform over the classes."""
        return torch.randint(self.classes, (n,), generator=rng, device=rng.device)

    def distance(self, student: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
        """Kullback-Leibler divergence of the softened student from the softened teacher, mean over images, times T^2."""
        log_q = F.log_softmax(self.logits(student).float() / temperature, 1)
        log_p = F.log_softmax(self.logits(teacher).float() / temperature, 1)
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2
