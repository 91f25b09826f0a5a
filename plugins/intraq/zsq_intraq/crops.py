"""Random resized crops and mirror images of a whole batch in one differentiable operation, with boxes drawn on its device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Smallest and largest ratio of width to height of a crop.
ASPECT = (3 / 4, 4 / 3)
#: Boxes drawn for an image; the first that fits inside is used, or the whole image if none does.
ATTEMPTS = 10


@dataclass(frozen=True)
class Boxes:
    """One crop per image, in whole pixels: upper and left edge, height and width; and whether it is mirrored. Each (N,)."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor


def draw(n: int, size: tuple[int, int], least: float, rng: torch.Generator) -> Boxes:
    """Boxes in images of ``size`` (height, width), on the device of ``rng``; no value is copied to the host.

    The area is uniform in [least, 1] of the image's, the aspect ratio log-uniform in :data:`ASPECT`, the position uniform; one box in
    two is mirrored. This is the usual RandomResizedCrop with RandomHorizontalFlip, except that an image is taken whole if no box
    fits, even if it is narrower than :data:`ASPECT` allows.
    """
    h, w = size
    area, aspect = torch.rand((2, ATTEMPTS, n), generator=rng, device=rng.device)
    area = (least + (1 - least) * area) * (h * w)
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = torch.exp(low + (high - low) * aspect)
    height, width = torch.round(torch.sqrt(area / aspect)), torch.round(torch.sqrt(area * aspect))
    fits = (height <= h) & (width <= w) & (height >= 1) & (width >= 1)
    first = fits.float().argmax(0, keepdim=True)
    some = fits.any(0)
    height = torch.where(some, height.gather(0, first)[0], h)
    width = torch.where(some, width.gather(0, first)[0], w)
    y, x, mirror = torch.rand((3, n), generator=rng, device=rng.device)
    return Boxes(torch.floor(y * (h - height + 1)), torch.floor(x * (w - width + 1)), height, width, mirror < 0.5)


def crop(x: Tensor, boxes: Boxes) -> Tensor:
    """The boxes of ``x`` (N, C, H, W), each scaled up to (H, W) bilinearly, in channels_last; differentiable in ``x``.

    Pixels outside of a box have no influence: positions are clamped between the centres of its first and last pixel.
    """
    h, w = x.shape[-2:]
    down = _positions(boxes.top, boxes.height, h)
    across = _positions(boxes.left, boxes.width, w)
    across = torch.where(boxes.mirrored[:, None], across.flip(1), across)
    grid = torch.stack([across[:, None, :].expand(-1, h, -1), down[:, :, None].expand(-1, -1, w)], 3)
    return F.grid_sample(x, grid, "bilinear", "border", align_corners=False).contiguous(memory_format=torch.channels_last)


def _positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Positions of the ``size`` pixels of a crop along one axis, (N, size); -1 and 1 are the edges of the image."""
    centres = (torch.arange(size, device=start.device) + 0.5) / size
    pixels = start[:, None] + (centres * length[:, None]).clamp_min(0.5)
    pixels = torch.minimum(pixels, (start + length - 0.5)[:, None])
    return 2 * pixels / size - 1
