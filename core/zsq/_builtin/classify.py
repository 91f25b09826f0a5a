"""The task ``classify``: one of several classes per image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsq._builtin.options import ClassifyOptions
from zsq.errors import ZsqError
from zsq.types import Context


class Classify:
    """Outputs are logits (N, classes); targets are class numbers (N,). Teachers build their task before there is a context."""

    name, unit = "classify", "images"

    def __init__(self, options: ClassifyOptions, ctx: Context | None = None) -> None:
        self.classes = options.classes

    def logits(self, output: Any) -> Tensor:
        """The logits in a network's output: a tensor, the ``logits`` of a mapping or object, or the first of a tuple.

        Raises:
            ZsqError: When there is none.
        """
        if isinstance(output, Mapping):
            output = output.get("logits")
        elif not isinstance(output, Tensor):
            first = output[0] if isinstance(output, (tuple, list)) and output else None
            output = getattr(output, "logits", first)
        if not isinstance(output, Tensor):
            raise ZsqError("the network's output holds no logits", "task classify", "return a tensor, or an object with `logits`")
        return output

    def probabilities(self, output: Any) -> Tensor:
        """Of every image's classes (N, classes), float32."""
        return self.logits(output).float().softmax(1)

    def values(self, output: Any) -> tuple[Tensor, ...]:
        """The logits; there is nothing else."""
        return (self.logits(output),)

    def wrong(self, output: Any, inputs: Tensor) -> str:
        """What is wrong with an output that is not one row of logits for each image."""
        shape, n = tuple(self.logits(output).shape), len(inputs)
        return "" if len(shape) == 2 and shape[0] == n else f"outputs {shape} for {n} images, but should give logits ({n}, classes)"

    def targets(self, n: int, rng: torch.Generator) -> Tensor:
        """``n`` class numbers (int64), each class equally likely."""
        return torch.randint(self.classes, (n,), generator=rng, device=rng.device)

    def distance(self, student: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
        """T² times the mean over images of KL(teacher ‖ student), both softened by T; float32, zero at equality."""
        ours = F.log_softmax(self.logits(student).float() / temperature, 1)
        theirs = F.log_softmax(self.logits(teacher).float() / temperature, 1)
        return F.kl_div(ours, theirs, reduction="sum", log_target=True) * (temperature**2 / len(ours))
