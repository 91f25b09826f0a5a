"""The task ``segment``: one of several classes per pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsq.errors import ZsqError
from zsq.types import Context
from zsq_segment import SegmentOptions


class Segment:
    """Outputs are logits (N, classes, H, W) at the size of the input. Images have no class of their own, so there are no targets."""

    name = "segment"

    def __init__(self, options: SegmentOptions, ctx: Context | None = None) -> None:
        self.classes = options.classes

    def logits(self, output: Any) -> Tensor:
        """The logits in a network's output: a tensor, ``out`` or ``logits`` of a mapping or object, or the first of a tuple.

        Raises:
            ZsqError: When there is none.
        """
        if isinstance(output, Mapping):
            output = output.get("out", output.get("logits"))
        elif not isinstance(output, Tensor):
            first = output[0] if isinstance(output, (tuple, list)) and output else None
            output = getattr(output, "logits", first)
        if not isinstance(output, Tensor):
            raise ZsqError("the network's output holds no logits", "task segment", "return a tensor, or a mapping with `out`")
        return output

    def values(self, output: Any) -> tuple[Tensor, ...]:
        """The logits; there is nothing else."""
        return (self.logits(output),)

    def wrong(self, output: Any, inputs: Tensor) -> str:
        """Anything but logits for every pixel of every image is."""
        shape, (n, _, height, width) = tuple(self.logits(output).shape), inputs.shape
        fits = len(shape) == 4 and (shape[0], *shape[2:]) == (n, height, width)
        return "" if fits else f"outputs {shape} for inputs {tuple(inputs.shape)}, but should give logits ({n}, classes, {height}, {width})"

    def distance(self, student: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
        """T² times the mean over pixels of KL(teacher ‖ student), both softened by T; float32, zero at equality."""
        ours = F.log_softmax(self.logits(student).float() / temperature, 1)
        theirs = F.log_softmax(self.logits(teacher).float() / temperature, 1)
        return F.kl_div(ours, theirs, reduction="sum", log_target=True) * (temperature**2 * ours.shape[1] / ours.numel())

    def example(self, n: int, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Random logits for ``n`` images of ``shape`` (C, H, W)."""
        return torch.randn((n, self.classes, *shape[1:]), generator=rng)
