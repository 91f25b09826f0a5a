"""Evaluators: top-1 accuracy on real images from a file or folder, and agreement with the teacher on synthetic images."""

from __future__ import annotations

import csv
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from zsq._builtin.options import AgreementOptions, Top1Options
from zsq.errors import FileError, nearest
from zsq.files import inside
from zsq.images import from_uint8
from zsq.images._npz import DAMAGED
from zsq.types import Batch, Context, InputSpec

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"})
_DAMAGED_IMAGE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


class Top1:
    """Top-1 accuracy in percent; FP32.

    ``npz:PATH`` holds ``images`` uint8 (N, H, W, C) of the teacher's size and ``labels`` (N,). ``folder:PATH`` holds a
    ``metadata.csv`` of ``file_name,label``, or one folder per class, label 0 being the first in alphabetical order. Its photos
    are resized (bicubic) so that the short side is the teacher's size / ``crop``, then cropped at the centre; images of
    exactly the teacher's size are not changed.
    """

    def __init__(self, options: Top1Options, ctx: Context) -> None:
        self.options = options
        self.details: dict[str, Any] = {}

    def check(self, ctx: Context) -> None:
        """Read the file, or list the folder, before the run does any work.

        Raises:
            FileError: If it is missing or damaged, images have another shape, or labels are out of range.
        """
        self._open(ctx)

    def evaluate(self, module: nn.Module, ctx: Context) -> dict[str, float]:
        """``top1`` in percent and ``images``, the number of images."""
        images, task = self._open(ctx), ctx.teacher.task
        given: list[NDArray[np.int64]] = []
        size = self.options.batch_size or _batch_size(ctx)
        for start in range(0, len(images.labels), size):
            part = slice(start, start + size)
            inputs = from_uint8(images.pixels(part), ctx.teacher.inputs).to(ctx.device)
            with torch.no_grad():
                given.append(task.logits(module(inputs)).argmax(1).cpu().numpy())
        answers = np.concatenate(given)
        self.details = {"answers": answers, "labels": images.labels}
        return {"top1": 100 * int((answers == images.labels).sum()) / len(images.labels), "images": len(images.labels)}

    def _open(self, ctx: Context) -> _Npz | _Folder:
        o, path = self.options, Path(self.options.ref)
        if not o.ref:
            raise FileError("no evaluation images are given", "evaluator top1", "write --eval npz:PATH or --eval folder:PATH")
        if not path.exists():
            names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise FileError("the evaluation images do not exist", str(path), nearest(path.name, names) or "check the path")
        kind = o.format if o.format != "auto" else "folder" if path.is_dir() else "npz"
        return (_Npz if kind == "npz" else _Folder)(path, ctx.teacher.inputs, ctx.teacher.task.classes, o)


class Agreement:
    """How often student and teacher have the same largest logit, in percent, and the mean squared difference of their logits.

    If logits have places, (N, K, ...), every place counts.

    The images are synthetic, from ``ctx.sampler``; Gaussian noise if there is none.
    """

    def __init__(self, options: AgreementOptions, ctx: Context) -> None:
        self.images = options.images

    def evaluate(self, module: nn.Module, ctx: Context) -> dict[str, float]:
        """``agreement``, ``logit_mse`` (mean over images and classes) and ``agreement_images``."""
        task, same, error, done = ctx.teacher.task, 0.0, 0.0, 0
        while done < self.images:
            inputs = _draw(min(ctx.batch_size, self.images - done), ctx).inputs
            with torch.no_grad():
                theirs, ours = (task.logits(network(inputs)).float() for network in (ctx.teacher.module, module))
            answers = (theirs.argmax(1) == ours.argmax(1)).float()
            same += float(answers.reshape(len(inputs), -1).mean(1).sum())
            error += float((theirs - ours).square().reshape(len(inputs), -1).mean(1).sum())
            done += len(inputs)
        return {"agreement": 100 * same / done, "logit_mse": error / done, "agreement_images": done}


def _batch_size(ctx: Context) -> int:
    """250; on a CPU at most as many as have 2 million values, 13 of 3x224x224: with more, forward passes wait for memory."""
    return min(250, max(1, 2**21 // math.prod(ctx.teacher.inputs.shape))) if ctx.device.type == "cpu" else 250


class _Npz:
    """Images and labels of an ``.npz`` file, checked on opening."""

    def __init__(self, path: Path, spec: InputSpec, classes: int, options: Top1Options) -> None:
        try:
            with np.load(path, allow_pickle=False) as stored:
                keys = set(stored.files)
                arrays = [stored[key] for key in ("images", "labels")] if {"images", "labels"} <= keys else []
        except DAMAGED as error:
            raise FileError(
                "not an .npz file of plain arrays, or damaged", str(path), "write it with numpy.savez, images and labels"
            ) from error
        if not arrays:
            gone = " and ".join(sorted({"images", "labels"} - keys))
            raise FileError(f"the file has no {gone}", str(path), f"it has: {', '.join(sorted(keys)) or 'nothing'}")
        images, labels = arrays
        channels, height, width = spec.shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, channels):
            what = f"images are {images.dtype} {images.shape}, but the teacher reads uint8 (N, {height}, {width}, {channels})"
            raise FileError(what, str(path), "store them at the teacher's size, or give a folder of image files")
        _check_labels(labels, len(images), classes, str(path))
        self.images: NDArray[np.uint8]
        self.images, self.labels = images[: options.limit], labels[: options.limit]

    def pixels(self, part: slice) -> NDArray[np.uint8]:
        return self.images[part]


class _Folder:
    """Image files of a folder, listed and checked on opening, decoded batch by batch."""

    def __init__(self, path: Path, spec: InputSpec, classes: int, options: Top1Options) -> None:
        if not path.is_dir():
            raise FileError("this is a file, not a folder", str(path), f"write --eval npz:{path} for an .npz file")
        rows = _listed(path / "metadata.csv") if (path / "metadata.csv").is_file() else _by_class(path, classes)
        labels = np.array([label for _, label in rows], dtype=np.int64)
        _check_labels(labels, len(rows), classes, str(path))
        self.files, self.labels = [file for file, _ in rows][: options.limit], labels[: options.limit]
        self.size, self.crop = spec.shape, options.crop

    def pixels(self, part: slice) -> NDArray[np.uint8]:
        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(self._decode, self.files[part])))

    def _decode(self, file: Path) -> NDArray[np.uint8]:
        channels, height, width = self.size
        try:
            with Image.open(file) as opened:
                image: Image.Image = opened.convert("RGB" if channels == 3 else "L")
        except _DAMAGED_IMAGE as error:
            raise FileError(f"'{file.name}' cannot be read as an image", str(file.parent), "remove it or copy it again") from error
        if image.size != (width, height):
            scale = max(round(height / self.crop) / image.height, round(width / self.crop) / image.width)
            tall, wide = max(height, round(image.height * scale)), max(width, round(image.width * scale))
            left, top = round((wide - width) / 2), round((tall - height) / 2)
            image = image.resize((wide, tall), Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
        return np.array(image, dtype=np.uint8).reshape(height, width, -1)


def _listed(table: Path) -> list[tuple[Path, int]]:
    """Files and labels of a ``metadata.csv``; every file lies inside its folder."""
    rows: list[tuple[Path, int]] = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            if not {"file_name", "label"} <= set(reader.fieldnames or ()):
                raise FileError("the table has no columns file_name and label", str(table), "its first line reads file_name,label")
            for row in reader:
                rows.append((inside(table.parent, row["file_name"]), _label(row["label"], reader.line_num, table)))
                if not rows[-1][0].is_file():
                    raise FileError(f"line {reader.line_num}: there is no file '{row['file_name']}'", str(table), "correct the table")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise FileError("the table cannot be read as CSV in UTF-8", str(table), "write file_name,label lines") from error
    return rows


def _label(text: Any, line: int, table: Path) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        raise FileError(f"line {line}: label {text!r} is not a whole number", str(table), "labels are 0, 1, 2, …") from None


def _by_class(path: Path, classes: int) -> list[tuple[Path, int]]:
    """Files and labels by class folder, in turns, so that a limit keeps images of each class."""
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(folders) != classes:
        what = f"{len(folders)} class folders, but the teacher has {classes} classes"
        raise FileError(what, str(path), "give one folder per class, or a metadata.csv of file_name,label")
    turns = [
        (turn, label, file)
        for label, folder in enumerate(folders)
        for turn, file in enumerate(sorted(f for f in folder.rglob("*") if f.suffix.lower() in _SUFFIXES))
    ]
    return [(file, label) for _, label, file in sorted(turns)]


def _check_labels(labels: NDArray[Any], count: int, classes: int, where: str) -> None:
    """Raise ``FileError`` if labels are not one integer below ``classes`` for each of ``count`` images."""
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise FileError(f"labels are {labels.dtype} {labels.shape} for {count} images", where, "give one whole number per image")
    if count == 0:
        raise FileError("there are no images", where, "nothing to evaluate on")
    low, high = labels.min(), labels.max()
    if low < 0 or high >= classes:
        raise FileError(f"labels run from {low} to {high}, but must be from 0 to {classes - 1}", where, "is it the teacher's data set?")


def _draw(n: int, ctx: Context) -> Batch:
    if ctx.sampler is not None:
        return ctx.sampler(n)
    return Batch(torch.randn((n, *ctx.teacher.inputs.shape), generator=ctx.rng, device=ctx.device))
