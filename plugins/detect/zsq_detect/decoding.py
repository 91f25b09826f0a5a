"""Turns a detector's output into boxes: scores, decoding, suppression. In float, outside of the quantized network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from zsq.errors import ZsqError
from zsq.types import Teacher
from zsq_detect.boxes import Priors, nms


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image: ``boxes`` (B, 4) in pixels of the network's input, scores (B,), classes (B,); best first."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Decoding:
    """How to compute boxes from a network's output. A network of this task has its own in the attribute ``decoding``.

    Args:
        priors: The boxes that offsets are relative to.
        scores: ``sigmoid``: classes are independent. ``softmax``: over all classes; the first is the background, which gives no boxes.
        threshold: Smallest probability of a box.
        overlap: Of two boxes of one class with a larger intersection over union, the one with the lower score is removed.
        candidates: Most boxes of an image before suppression: the best of all classes together.
        most: Most boxes of an image after suppression.
        fit: How images of another size become inputs. ``stretch``: resized without keeping proportions; ``pad``: resized in
            proportion, and padded on the right and below.
    """

    priors: Priors
    scores: Literal["sigmoid", "softmax"] = "sigmoid"
    threshold: float = 0.05
    overlap: float = 0.5
    candidates: int = 1000
    most: int = 100
    fit: Literal["stretch", "pad"] = "stretch"

    @property
    def background(self) -> int:
        """Number of background classes: 1 or 0."""
        return int(self.scores == "softmax")

    def __call__(self, output: Any, size: tuple[int, int]) -> list[Boxes]:
        """Boxes of every image, clipped to inputs of ``size`` (height, width).

        Raises:
            ZsqError: If the output has another number of priors.
        """
        logits, offsets = (part.float() for part in pair(output))
        if logits.shape[1] != len(self.priors):
            what = f"the network outputs {logits.shape[1]} boxes for inputs {size[0]}x{size[1]}, but has {len(self.priors)} priors"
            raise ZsqError(what, "task detect", "set teacher.shape to the size that its priors were made for")
        chances = logits.softmax(-1)[..., 1:] if self.scores == "softmax" else logits.sigmoid()
        boxes = self.priors.decode(offsets)
        limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        return [self._found(*image) for image in zip(chances, boxes, strict=True)]

    def _found(self, chances: Tensor, boxes: Tensor) -> Boxes:
        """The boxes of one image, from probabilities (A, K) and boxes (A, 4)."""
        flat = chances.flatten()
        scores, index = flat.sort(descending=True, stable=True)
        count = min(int((scores > self.threshold).sum()), self.candidates)
        scores, index = scores[:count], index[:count]
        which, classes = index // chances.shape[1], index % chances.shape[1]
        keep = nms(boxes[which], scores, classes, self.overlap)[: self.most]
        return Boxes(boxes[which[keep]], scores[keep], classes[keep])


def decoding_of(teacher: Teacher, where: str) -> Decoding:
    """The decoding of a teacher's boxes.

    Raises:
        ZsqError: If the teacher is not a detector, or has no decoding.
    """
    if teacher.task.name != "detect":
        raise ZsqError(f"the teacher's task is '{teacher.task.name}', not 'detect'", where, "name a detector, or another --eval")
    found = getattr(teacher.module, "decoding", None)
    if not isinstance(found, Decoding):
        hint = "give the network an attribute `decoding`, a zsq_detect.decoding.Decoding"
        raise ZsqError("the teacher does not say how its boxes are decoded", where, hint)
    return found


def pair(output: Any) -> tuple[Tensor, Tensor]:
    """Scores (N, A, classes) and offsets (N, A, 4) of a network's output.

    Raises:
        ZsqError: If the output is something else.
    """
    parts = (output.get("logits"), output.get("boxes")) if isinstance(output, Mapping) else output
    if isinstance(parts, (tuple, list)) and len(parts) == 2 and all(isinstance(part, Tensor) for part in parts):
        return parts[0], parts[1]
    raise ZsqError(
        "the network's output is not a pair of scores and box offsets",
        "task detect",
        "return (scores, offsets) of all priors, as tensors, before non-maximum suppression",
    )
