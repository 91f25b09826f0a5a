"""The task ``detect``: scores and box offsets of every prior, before non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsq.protocols import Box, Drawing
from zsq.types import Context, Teacher
from zsq_detect import DetectOptions
from zsq_detect.decoding import decoding_of, pair

#: Most boxes that a drawing shows, and most that its text names.
_DRAWN, _TOLD = 8, 3


class Detect:
    """Outputs are scores (N, A, classes) and offsets (N, A, 4) of A priors: a pair, or a mapping with ``logits`` and ``boxes``.

    An image does not have one class, so components that need a class per image are refused. The network itself says how to compute
    boxes from an output, see :class:`zsq_detect.decoding.Decoding`.
    """

    name, unit = "detect", "priors"
    float_parts = ("priors (anchors)", "box decoding", "non-maximum suppression")

    def __init__(self, options: DetectOptions, ctx: Context | None = None) -> None:
        self.classes = options.classes

    def logits(self, output: Any) -> Tensor:
        """The scores as (N, classes, A).

        Raises:
            ZsqError: If the output is something else.
        """
        return pair(output)[0].transpose(1, 2)

    def probabilities(self, output: Any) -> None:
        """None: classes of a prior need not exclude each other, and nearly every prior has none."""
        return None

    def draw(self, output: Any, teacher: Teacher) -> list[Drawing]:
        """The boxes with the highest scores of every image, computed by the teacher's ``decoding``.

        Raises:
            ZsqError: If the teacher has no ``decoding``.
        """
        decoding = decoding_of(teacher, "task detect")
        names = teacher.labels[decoding.background :] or tuple(f"class {i}" for i in range(self.classes - decoding.background))
        height, width = teacher.inputs.shape[1:]
        made = []
        for found in decoding(output, (height, width)):
            best = zip(found.boxes[:_DRAWN].tolist(), found.classes.tolist(), found.scores.tolist(), strict=False)
            boxes = tuple(Box(tuple(corners), label, score) for corners, label, score in best)
            made.append(Drawing(_said(boxes, len(found.scores), names), names, boxes=boxes))
        return made

    def values(self, output: Any) -> tuple[Tensor, ...]:
        """Scores (N, classes, A) and offsets (N, A, 4)."""
        return self.logits(output), pair(output)[1]

    def distance(self, student: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
        """Mean absolute difference of the scores plus that of the offsets, over all images and priors; there is no temperature."""
        (logits, offsets), (their_logits, their_offsets) = pair(student), pair(teacher)
        return F.l1_loss(logits.float(), their_logits.float()) + F.l1_loss(offsets.float(), their_offsets.float())

    def wrong(self, output: Any, inputs: Tensor) -> str:
        """What is wrong unless the output is scores and four offsets for every prior."""
        logits, offsets = pair(output)
        n, found, boxes = len(inputs), tuple(logits.shape), tuple(offsets.shape)
        if logits.dim() == 3 and found[0] == n and boxes == (*found[:2], 4):
            return ""
        return f"outputs {found} and {boxes} for {n} images, but should give scores ({n}, A, classes) and offsets ({n}, A, 4)"

    def example(self, n: int, shape: tuple[int, ...], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random scores and offsets of 12 priors for ``n`` images."""
        return torch.randn((n, 12, self.classes), generator=rng), torch.randn((n, 12, 4), generator=rng)


def _said(boxes: Sequence[Box], count: int, names: Sequence[str]) -> str:
    """The number of boxes and the surest: ``41 boxes, the surest cat 93 %, dog 60 %``."""
    told = ", ".join(f"{names[box.label]} {100 * box.score:.0f} %" for box in boxes[:_TOLD])
    return f"{count} boxes, the surest {told}" if count > 1 else f"one box, {told}" if count else "no box"
