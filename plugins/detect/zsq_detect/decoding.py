"""From a detector's output to boxes: scores, decoding, suppression. Float, outside of the network that is quantized."""

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
    """What was found in one image: boxes (B, 4) in pixels of the network's input, scores (B,), classes (B,); best first."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Decoding:
    """How boxes come from a network's output. A network of the task carries its own as the attribute ``decoding``.

    Args:
        priors: What offsets are relative to.
        scores: ``sigmoid``: every class by itself. ``softmax``: of all classes, the first being background, which is no class then.
        threshold: Least probability of a box.
        overlap: Intersection over union above which the lower of two boxes of one class goes.
        candidates: Boxes of an image that suppression looks at, the best of all classes together.
        most: Boxes of an image that are left.
        fit: How images of another size become inputs. ``stretch``: resized as they are; ``pad``: resized in proportion, and filled
            up on the right and below.
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
        """Number of classes that are none: 1 or 0."""
        return int(self.scores == "softmax")

    def __call__(self, output: Any, size: tuple[int, int]) -> list[Boxes]:
        """Boxes of every image, clipped to inputs of ``size`` (height, width).

        Raises:
            ZsqError: If the output has another number of priors.
        """
        logits, offsets = (part.float() for part in pair(output))
        if logits.shape[1] != len(self.priors):
            what = f"the network gives out {logits.shape[1]} boxes for inputs {size[0]}x{size[1]}, but has {len(self.priors)} priors"
            raise ZsqError(what, "task detect", "give --set teacher.shape the size that its priors were made for")
        chances = logits.softmax(-1)[..., 1:] if self.scores == "softmax" else logits.sigmoid()
        boxes = self.priors.decode(offsets)
        limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        return [self._found(*image) for image in zip(chances, boxes, strict=True)]

    def _found(self, chances: Tensor, boxes: Tensor) -> Boxes:
        """Of one image: probabilities (A, K), boxes (A, 4)."""
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
        ZsqError: If it is no detector, or does not say.
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
        ZsqError: If it holds something else.
    """
    parts = (output.get("logits"), output.get("boxes")) if isinstance(output, Mapping) else output
    if isinstance(parts, (tuple, list)) and len(parts) == 2 and all(isinstance(part, Tensor) for part in parts):
        return parts[0], parts[1]
    raise ZsqError(
        "the network's output is not a pair of scores and box offsets",
        "task detect",
        "return (scores, offsets) of all priors, as tensors, before non-maximum suppression",
    )
