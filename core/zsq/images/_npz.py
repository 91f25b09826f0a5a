"""Images in an .npz file: ``images`` (N, H, W, C) uint8 pixels."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from torch import Tensor

from zsq.errors import FileError
from zsq.files import write_atomic
from zsq.images._pixels import from_uint8, to_uint8
from zsq.types import InputSpec

#: What a damaged .npz file can raise.
DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def write_npz(path: Path, images: Tensor, spec: InputSpec) -> None:
    """Write normalised images (N, C, H, W), rounded to whole pixel values.

    Raises:
        FileError: If the file system refuses.
    """
    pixels = to_uint8(images, spec)

    def save(beside: Path) -> None:
        with beside.open("wb") as file:
            np.savez_compressed(file, images=pixels)

    write_atomic(path, save)


def read_npz(file: Path, spec: InputSpec, count: int) -> Tensor:
    """The first ``count`` images, normalised (N, C, H, W).

    Raises:
        FileError: If the file is missing or damaged, or its images do not have the size of ``spec``.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            pixels = content["images"][:count]
    except DAMAGED as error:
        raise FileError(f"cannot read images: {error}", str(file), "an .npz with `images` (N, H, W, C) uint8") from None
    channels, height, width = spec.shape
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (height, width, channels) or not len(pixels):
        what = f"images are {pixels.dtype} {pixels.shape}, not uint8 (N, {height}, {width}, {channels})"
        raise FileError(what, str(file), "use images of the teacher's size")
    return from_uint8(pixels, spec).contiguous()
