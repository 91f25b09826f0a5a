"""The evaluator ``segmentation``: mean intersection over union on real images with a class for every pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from zsq.errors import FileError, PlanError, nearest
from zsq.images import from_uint8
from zsq.types import Context
from zsq_segment import SegmentationOptions

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
_LAYOUT = "it holds images/NAME.jpg and labels/NAME.png, whose pixels are class numbers"

#: An image file and its label file.
Pair = tuple[Path, Path]


class Segmentation:
    """``segmentation:DIR`` with ``images/`` and ``labels/``; see the README. Forward passes are in float32."""

    def __init__(self, options: SegmentationOptions, ctx: Context) -> None:
        self.options = options
        self.details: dict[str, Any] = {}

    def check(self, ctx: Context) -> None:
        """List the folder before any work is done on the student.

        Raises:
            FileError: If it is missing, or an image has no labels.
            PlanError: If the teacher's task is not ``segment``.
        """
        self._pairs(ctx)

    def evaluate(self, module: nn.Module, ctx: Context) -> dict[str, float]:
        """``miou`` and ``pixel_accuracy`` in percent, and ``images``, the number evaluated.

        Raises:
            FileError: If a file is damaged, labels have another size than their image, or no label is a class.
        """
        pairs, classes = self._pairs(ctx), ctx.teacher.task.classes
        counts = torch.zeros((classes, classes), dtype=torch.int64)
        for batch in _parts(pairs, self.options.batch_size or _batch_size(ctx)):
            with ThreadPoolExecutor() as pool:
                read = list(pool.map(lambda pair: _read(pair, ctx.teacher.inputs.shape), batch))
            inputs = from_uint8(np.stack([pixels for pixels, _ in read]), ctx.teacher.inputs).to(ctx.device)
            with torch.no_grad():
                logits = ctx.teacher.task.logits(module(inputs)).float()
            for own, (_, labels) in zip(torch.split(logits, 1), read, strict=True):
                counts += confusion(_answers(own, labels.shape), torch.from_numpy(labels), classes, self.options.ignore)
        if not int(counts.sum()):
            raise FileError(
                f"no label is one of the teacher's {classes} classes",
                str(pairs[0][1].parent),
                "check that they belong to the teacher's data set",
            )
        each = intersection_over_union(counts)
        names = ctx.teacher.labels or [str(i) for i in range(classes)]
        iou = {name: None if math.isnan(v) else round(100 * v, 3) for name, v in zip(names, each.tolist(), strict=False)}
        self.details = {"by_class": {"IoU": iou}}
        accuracy = 100 * float(counts.diag().sum()) / float(counts.sum())
        return {"miou": 100 * float(each.nanmean()), "pixel_accuracy": accuracy, "images": len(pairs)}

    def _pairs(self, ctx: Context) -> list[Pair]:
        o, folder = self.options, Path(self.options.ref)
        if ctx.teacher.task.name != "segment":
            what = f"the evaluator needs a class for every pixel, but the teacher's task is '{ctx.teacher.task.name}'"
            raise PlanError(what, "evaluator segmentation", "give a network for task 'segment', or another --eval")
        if not o.ref:
            raise FileError("no folder of images is given", "evaluator segmentation", "write --eval segmentation:DIR")
        if not folder.is_dir():
            names = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise FileError("there is no such folder", str(folder), nearest(folder.name, names) or "check the path")
        images = sorted(p for p in (folder / "images").glob("*") if p.suffix.lower() in _SUFFIXES)
        if not images:
            raise FileError("there are no images", str(folder / "images"), _LAYOUT)
        pairs = [(image, folder / "labels" / f"{image.stem}.png") for image in images[: o.limit]]
        if missing := next((labels for _, labels in pairs if not labels.is_file()), None):
            raise FileError(f"there are no labels '{missing.name}'", str(missing.parent), _LAYOUT)
        return pairs


def confusion(answers: Tensor, labels: Tensor, classes: int, ignore: Sequence[int] = ()) -> Tensor:
    """Pixel counts by true and predicted class (classes, classes), int64; labels that are no class, or in ``ignore``, do not count."""
    labels = labels.long()
    counted = (labels >= 0) & (labels < classes)
    for label in ignore:
        counted &= labels != label
    return torch.bincount(labels[counted] * classes + answers[counted], minlength=classes**2).view(classes, classes)


def intersection_over_union(counts: Tensor) -> Tensor:
    """Per class (classes,), float64; NaN if a class is neither in the labels nor predicted."""
    counts = counts.double()
    hits = counts.diag()
    return hits / (counts.sum(0) + counts.sum(1) - hits)


def _answers(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The class of every pixel (H, W) of an image, from its logits (1, K, H', W')."""
    if logits.shape[2:] != shape:
        logits = F.interpolate(logits, shape, mode="bilinear", align_corners=False)
    return logits[0].argmax(0).cpu()


def _parts(pairs: list[Pair], size: int) -> Iterator[list[Pair]]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def _read(pair: Pair, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (H, W, C) at the teacher's size, and labels (H, W) at their own size."""
    channels, height, width = shape
    pixels, labels = _opened(pair[0], "RGB" if channels == 3 else "L"), _opened(pair[1])
    if pixels.size != labels.size:
        raise FileError(f"'{pair[1].name}' is {labels.size}, but its image {pixels.size}", str(pair[1].parent), "copy both again")
    if pixels.size != (width, height):
        pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    numbers = np.array(labels)
    if numbers.ndim != 2:
        raise FileError(f"'{pair[1].name}' has colours, not class numbers", str(pair[1].parent), "save labels with one channel")
    return np.array(pixels, dtype=np.uint8).reshape(height, width, -1), numbers.astype(np.int64)


def _opened(file: Path, mode: str | None = None) -> Any:
    try:
        with Image.open(file) as opened:
            opened.load()
            return opened.convert(mode) if mode else opened.copy()
    except _DAMAGED as error:
        raise FileError(f"'{file.name}' cannot be read as an image", str(file.parent), "remove it or copy it again") from error


def _batch_size(ctx: Context) -> int:
    return max(1, 2**21 // math.prod(ctx.teacher.inputs.shape)) if ctx.device.type == "cpu" else 32
