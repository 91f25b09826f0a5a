"""Writes many images into one picture (a gallery), and reads them back from it."""

from __future__ import annotations

import hashlib
from pathlib import Path
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


def read_gallery(path: Path, inputs: InputSpec, columns: int = 8, gap: int = 2) -> tuple[torch.Tensor, int] | None:
    """The images (N, C, H, W) of a ``gallery`` in a file as inputs, and the factor by which the gallery had made them smaller (1: not
    at all). None if there is no such file, or if it is not such a gallery."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L" if inputs.shape[0] == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    less, _ = _reduction(inputs, columns)
    channels = inputs.shape[0]
    height, width = (side // less for side in inputs.shape[1:])
    across = columns * (width + gap) + gap
    scale = max(1, round(512 / across))
    rows, rest = divmod(pixels.shape[0] // scale - gap, height + gap)
    if pixels.shape[1] != across * scale or pixels.shape[0] % scale or rest or rows < 1:
        return None
    sheet = pixels[::scale, ::scale].reshape(pixels.shape[0] // scale, across, channels)[gap:, gap:]
    tiles = sheet.reshape(rows, height + gap, columns, width + gap, channels)[:, :height, :, :width]
    images = tiles.transpose(0, 2, 4, 1, 3).reshape(-1, channels, height, width)
    images = images[(images != 255).any(axis=(1, 2, 3))]  # the last row may not be full
    if not len(images):
        return None
    found = torch.from_numpy(images).float()
    if less > 1:
        found = F.interpolate(found, tuple(inputs.shape[1:]), mode="bilinear", align_corners=False)
    return inputs.normalise(found / 255), less


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
