"""A picture of many images, and the images back from it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from zsq.images._pixels import pixels_of
from zsq.types import Batch, InputSpec

#: Pixels that a picture of images may have: it is published beside a student that is smaller than a photo.
_PICTURE = 500_000


#: Rows that it has at least.
_ROWS = 3


def gallery(batch: Batch, inputs: InputSpec, columns: int = 8, gap: int = 2) -> Any:
    """A PIL image of the batch in rows of ``columns``, back in pixel space and clipped to it; large images are made smaller by a whole
    factor, until some rows fit."""
    from PIL import Image

    less, rows = _reduction(inputs, columns)
    pixels = _pooled(pixels_of(batch.inputs[: rows * columns], inputs), less).byte().permute(0, 2, 3, 1).numpy()
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
    """The images (N, C, H, W) of a ``gallery`` in a file, normalised, and the factor by which they were smaller there, 1 where they are
    as they were; None where there is no such file, or it is no such picture."""
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
    whole = torch.from_numpy(images).float()
    if less > 1:
        whole = F.interpolate(whole, tuple(inputs.shape[1:]), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (inputs.mean, inputs.std))
    return (whole / 255 - mean) / std, less


def distinct(images: torch.Tensor) -> torch.Tensor:
    """Every one of the images (N, C, H, W) once, where it comes first: a small pool deals the same ones again."""
    seen: dict[bytes, int] = {}
    for i, image in enumerate(images.detach().float().cpu()):
        seen.setdefault(hashlib.sha256(image.numpy().tobytes()).digest(), i)
    return images if len(seen) == len(images) else images[list(seen.values())]


def _reduction(inputs: InputSpec, columns: int) -> tuple[int, int]:
    """By what whole factor images are made smaller so that ``_ROWS`` rows of them fit a picture, and how many rows do."""
    less = 1
    while True:
        height, width = (max(1, side // less) for side in inputs.shape[1:])
        rows = _PICTURE // (columns * height * width)
        if rows >= _ROWS or max(height, width) == 1:
            return less, max(1, rows if less == 1 else min(rows, _ROWS + 1))
        less += 1


def _pooled(images: torch.Tensor, less: int) -> torch.Tensor:
    """Images (N, C, H, W) made smaller by a whole factor, each pixel the mean of those it stands for."""
    if less > 1:
        images = F.avg_pool2d(images, less).round()
    return images
