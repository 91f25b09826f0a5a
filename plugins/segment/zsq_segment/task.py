"""The task ``segment``: one of several classes per pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsq.errors import ZsqError
from zsq.protocols import Drawing
from zsq.types import Context, Teacher
from zsq_segment import SegmentOptions

#: Most classes that the text of a drawing names.
_TOLD = 4


class Segment:
    """Outputs are logits (N, classes, H, W) at the size of the input. Whole images have no class, so there are no targets."""

    name, unit = "segment", "pixels"

    def __init__(self, options: SegmentOptions, ctx: Context | None = None) -> None:
        self.classes = options.classes

    def logits(self, output: Any) -> Tensor:
        """The logits in a network's output: a tensor, ``out`` or ``logits`` of a mapping or object, or the first of a tuple.

        Raises:
            ZsqError: If there is none.
        """
        if isinstance(output, Mapping):
            output = output.get("out", output.get("logits"))
        elif not isinstance(output, Tensor):
            first = output[0] if isinstance(output, (tuple, list)) and output else None
            output = getattr(output, "logits", first)
        if not isinstance(output, Tensor):
            raise ZsqError("the network's output holds no logits", "task segment", "return a tensor, or a mapping with `out`")
        return output

    def probabilities(self, output: Any) -> Tensor:
        """Probabilities of the classes of every pixel (N, classes, H, W), float32."""
        return self.logits(output).float().softmax(1)

    def draw(self, output: Any, teacher: Teacher) -> list[Drawing]:
        """The class of every pixel, and a text with the classes that cover most of the image."""
        names = teacher.labels if len(teacher.labels) == self.classes else tuple(f"class {i}" for i in range(self.classes))
        return [Drawing(_said(areas, names), names, areas) for areas in self.logits(output).argmax(1).cpu()]

    def values(self, output: Any) -> tuple[Tensor, ...]:
        """The logits; there is nothing else."""
        return (self.logits(output),)

    def wrong(self, output: Any, inputs: Tensor) -> str:
        """What is wrong unless the output is logits for every pixel of every image."""
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


def _said(areas: Tensor, names: Sequence[str]) -> str:
    """The largest areas (H, W) in percent of the image: ``sky 41 %, road 30 %``."""
    counts = torch.bincount(areas.flatten(), minlength=len(names))
    largest = counts.argsort(descending=True, stable=True)
    told = [int(i) for i in largest[:_TOLD] if counts[i]]
    rest = int((counts > 0).sum()) - len(told)
    text = ", ".join(f"{names[i]} {100 * int(counts[i]) / areas.numel():.0f} %" for i in told)
    return text + (f", {rest} more" if rest else "")
