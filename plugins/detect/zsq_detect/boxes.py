"""Box arithmetic in float, in plain torch: priors, decoding, overlap and suppression. It is never quantized.

Boxes are ``(left, top, right, bottom)`` in pixels, unless a name says ``centred``: ``(x, y, width, height)`` with the centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: No box grows beyond this many times its prior, 1000 / 16 as in R-CNN detectors, so that exp() stays finite.
_GROWTH = math.log(1000 / 16)


@dataclass(frozen=True)
class Priors:
    """The boxes that offsets are relative to, for inputs of one size.

    Args:
        centred: (A, 4), centre and size in pixels of the network's input.
        weights: Divisors of the offsets of centre and size: (10, 10, 5, 5) with SSD, (1, 1, 1, 1) with RetinaNet.
    """

    centred: Tensor
    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)

    def __len__(self) -> int:
        return len(self.centred)

    def decode(self, offsets: Tensor) -> Tensor:
        """Boxes (…, A, 4) from offsets (…, A, 4): centres move in units of the prior's size, sizes grow by exp (Faster R-CNN, 3.1.2)."""
        priors = self.centred.to(offsets.device)
        offsets = offsets.float() / offsets.new_tensor(self.weights)
        centres = priors[:, :2] + offsets[..., :2] * priors[:, 2:]
        halves = priors[:, 2:] * offsets[..., 2:].clamp(max=_GROWTH).exp() / 2
        return torch.cat([centres - halves, centres + halves], -1)


def grid(size: tuple[int, int], stride: int, side: float) -> Tensor:
    """One square prior of ``side`` pixels in every cell of a map of ``size`` (rows, columns): (rows * columns, 4), centred."""
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5) * stride for n in size), indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), *(torch.full((size[0] * size[1],), float(side)) for _ in range(2))], 1)


def areas(boxes: Tensor) -> Tensor:
    """Areas (…) of boxes (…, 4); zero if right < left or bottom < top."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (…, A, B) of boxes (…, A, 4) and (…, B, 4); zero for two empty ones."""
    lower = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    upper = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    both = (upper - lower).clamp(min=0).prod(-1)
    either = areas(a)[..., :, None] + areas(b)[..., None, :] - both
    return both / either.clamp(min=1e-9)


def nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Greedy suppression within each group: indices of the boxes that stay, best score first; equal scores in the order given.

    Args:
        boxes: (B, 4).
        scores: (B,).
        groups: (B,) class numbers; boxes of different groups never suppress each other.
        threshold: Of two boxes with a larger overlap, the one with the lower score is removed.
    """
    order = scores.argsort(descending=True, stable=True)
    clash = (iou(boxes[order], boxes[order]) > threshold) & (groups[order, None] == groups[order])
    stay: list[int] = []
    gone = torch.zeros(len(order), dtype=torch.bool)
    for at, rivals in enumerate(clash.cpu()):
        if not gone[at]:
            stay.append(at)
            gone |= rivals
    return order[torch.tensor(stay, dtype=torch.long, device=order.device)]
