"""Draws many images as one picture, a gallery."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from zsq.images._pixels import to_uint8
from zsq.types import Batch, InputSpec

#: Most pixels of a gallery: it is published beside a student that is smaller than a photograph.
_MOST_PIXELS = 500_000
#: A gallery has room for at least so many rows.
_ROWS = 3


def gallery(batch: Batch, inputs: InputSpec, columns: int = 8, gap: int = 2) -> Any:
    """A PIL image of the batch in rows of ``columns`` images. Large images are made smaller by a whole factor, until three rows fit."""
    from PIL import Image

    less, rows = _reduction(inputs, columns)
    pixels = to_uint8(batch.inputs[: rows * columns], inputs)
    if less > 1:  # each pixel becomes the mean of a square
        pixels = F.avg_pool2d(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), less).round().byte().permute(0, 2, 3, 1).numpy()
    n, height, width, channels = pixels.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    picture = Image.fromarray(sheet.squeeze())
    scale = max(1, round(512 / picture.width))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def distinct(images: torch.Tensor) -> torch.Tensor:
    """The images (N, C, H, W) without repetitions, in the order in which they first appear: a small pool deals images again."""
    seen: dict[bytes, int] = {}
    for i, image in enumerate(images.detach().float().cpu()):
        seen.setdefault(hashlib.sha256(image.numpy().tobytes()).digest(), i)
    return images if len(seen) == len(images) else images[list(seen.values())]


def _reduction(inputs: InputSpec, columns: int) -> tuple[int, int]:
    """The whole factor by which images are made smaller so that ``_ROWS`` rows fit into a gallery, and the number of rows that fit."""
    less = 1
    while True:
        height, width = (max(1, side // less) for side in inputs.shape[1:])
        rows = _MOST_PIXELS // (columns * height * width)
        if rows >= _ROWS or max(height, width) == 1:
            return less, max(1, rows if less == 1 else min(rows, _ROWS + 1))
        less += 1
