"""Evaluators: top-1 accuracy on real images from a file or folder, and agreement with the teacher on synthetic ones."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from zsq.builtin.options import AgreementOptions, Top1Options
from zsq.errors import FileError, nearest
from zsq.files import inside
from zsq.types import Batch, Context, InputSpec

_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


class Top1:
    """Share of images whose largest logit is the label's, in percent; FP32 forwards.

    ``npz:PATH`` holds ``images`` uint8 (N, H, W, C) of the teacher's size and ``labels`` (N,). ``folder:PATH`` holds one
    folder per class, in the order of their names, or a ``metadata.csv`` of ``file_name,label``; its photos are resized so
    that a centre crop of ``crop`` of the short side is the teacher's size (bicubic).
    """

    compares = False

    def __init__(self, options: Top1Options, ctx: Context) -> None:
        self.options = options

    def check(self, ctx: Context) -> None:
        """Refuse unusable data before any work is done on the student.

        Raises:
            FileError: Missing or damaged files, wrong shapes, labels out of range.
        """
        self._open(ctx)

    def evaluate(self, module: nn.Module, ctx: Context) -> dict[str, float]:
        """``top1`` in percent and ``images``, the number evaluated."""
        right = count = 0
        for inputs, labels in self._open(ctx):
            with torch.no_grad():
                logits = ctx.teacher.task.logits(module(inputs.to(ctx.device, memory_format=torch.channels_last)))
            right += int((logits.argmax(1).cpu() == labels).sum())
            count += len(labels)
        return {"top1": 100 * right / count, "images": count}

    def _open(self, ctx: Context) -> Iterator[tuple[Tensor, Tensor]]:
        o, path = self.options, Path(self.options.ref)
        if not o.ref or not path.exists():
            near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if o.ref and path.parent.is_dir() else ""
            raise FileError("the evaluation images do not exist", o.ref or "--eval", near or "write --eval npz:PATH or --eval folder:PATH")
        kind = o.format if o.format != "auto" else "folder" if path.is_dir() else "npz"
        reader = _Npz if kind == "npz" else _Folder
        return reader(path, ctx.teacher.inputs, ctx.teacher.task.classes, o).batches()


class Agreement:
    """How often the student's largest logit is the teacher's, in percent, and the mean squared logit error, on synthetic images."""

    compares = True

    def __init__(self, options: AgreementOptions, ctx: Context) -> None:
        self.images = options.images

    def evaluate(self, module: nn.Module, ctx: Context) -> dict[str, float]:
        """``agreement``, ``logit_mse`` and ``agreement_images``."""
        task, same, error, done = ctx.teacher.task, 0, 0.0, 0
        while done < self.images:
            n = min(ctx.batch_size, self.images - done)
            inputs = (ctx.sampler(n) if ctx.sampler else self._noise(n, ctx)).inputs
            if inputs.dim() == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                theirs, ours = (task.logits(m(inputs)).float() for m in (ctx.teacher.module, module))
            same += int((theirs.argmax(1) == ours.argmax(1)).sum())
            error += float((theirs - ours).square().mean(1).sum())
            done += n
        return {"agreement": 100 * same / done, "logit_mse": error / done, "agreement_images": done}

    @staticmethod
    def _noise(n: int, ctx: Context) -> Batch:
        return Batch(torch.randn((n, *ctx.teacher.inputs.shape), generator=ctx.rng, device=ctx.device))


class _Npz:
    """Images and labels of an ``.npz`` file, checked on opening."""

    def __init__(self, path: Path, spec: InputSpec, classes: int, options: Top1Options) -> None:
        try:
            with np.load(path, allow_pickle=False) as stored:
                missing = {"images", "labels"} - set(stored.files)
                if missing:
                    raise FileError(f"the file has no '{sorted(missing)[0]}' (it has: {', '.join(stored.files)})", str(path), "it needs images and labels")
                images, labels = stored["images"], stored["labels"]
        except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError, AttributeError) as error:
            raise FileError(f"the file cannot be read as .npz: {str(error)[:100]}", str(path), "arrays only, without pickled objects") from None
        channels, height, width = spec.shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, channels):
            raise FileError(f"images are {images.dtype} {images.shape}, but the teacher reads uint8 (N, {height}, {width}, {channels})", str(path),
                            "store them in the teacher's size, channels last")  # fmt: skip
        check_labels(labels, len(images), classes, str(path))
        end = options.limit or len(images)
        self.images, self.labels, self.spec, self.batch_size = images[:end], labels[:end], spec, options.batch_size

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.images), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield normalise(self.images[part], self.spec), torch.from_numpy(self.labels[part].astype(np.int64))


class _Folder:
    """Photos of a folder, listed and checked on opening, decoded batch by batch."""

    def __init__(self, path: Path, spec: InputSpec, classes: int, options: Top1Options) -> None:
        if not path.is_dir():
            raise FileError("this is a file, not a folder", str(path), f"write --eval npz:{path} for an .npz file")
        pairs = self._listed(path) if (path / "metadata.csv").is_file() else self._by_class(path)
        if not pairs:
            raise FileError("the folder has no images", str(path), "it needs one folder per class, or a metadata.csv of file_name,label")
        check_labels(np.asarray([label for _, label in pairs]), len(pairs), classes, str(path))
        if gone := next((file for file, _ in pairs if not file.is_file()), None):
            raise FileError(f"'{gone.name}' is listed but not there", str(path), "mend metadata.csv")
        self.pairs, self.spec, self.options = pairs[: options.limit or len(pairs)], spec, options

    @staticmethod
    def _listed(path: Path) -> list[tuple[Path, int]]:
        with (path / "metadata.csv").open(newline="") as file:
            rows = csv.DictReader(file)
            if not {"file_name", "label"} <= set(rows.fieldnames or ()):
                raise FileError("metadata.csv lacks the columns file_name and label", str(path), "its first line reads file_name,label")
            try:
                return [(inside(path, row["file_name"]), int(row["label"])) for row in rows]
            except (TypeError, ValueError):
                raise FileError(f"metadata.csv has no whole number as label in line {rows.line_num}", str(path), "labels are 0, 1, 2 …") from None

    @staticmethod
    def _by_class(path: Path) -> list[tuple[Path, int]]:
        folders = sorted(p for p in path.iterdir() if p.is_dir())
        return [(f, label) for label, folder in enumerate(folders) for f in sorted(folder.rglob("*")) if f.suffix.lower() in _IMAGES]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.options.batch_size
        for start in range(0, len(self.pairs), size):
            part = self.pairs[start : start + size]
            pixels = np.stack([self._decode(file) for file, _ in part])
            yield normalise(pixels, self.spec), torch.tensor([label for _, label in part])

    def _decode(self, file: Path) -> np.ndarray:
        channels, height, width = self.spec.shape
        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB" if channels == 3 else "L")
        except (UnidentifiedImageError, OSError) as error:
            raise FileError(f"'{file.name}' cannot be read as an image: {str(error)[:100]}", str(file.parent), "remove or mend it") from None
        scale = max(height, width) / self.options.crop / min(image.size)
        image = image.resize((max(width, round(image.width * scale)), max(height, round(image.height * scale))), Image.Resampling.BICUBIC)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        pixels = np.asarray(image.crop((left, top, left + width, top + height)))
        return pixels if channels == 3 else pixels[..., None]


def check_labels(labels: np.ndarray, count: int, classes: int, where: str) -> None:
    """Refuse labels that are not ``count`` whole numbers below ``classes``."""
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise FileError(f"labels are {labels.dtype} {labels.shape} for {count} images", where, "one whole number per image")
    if count == 0 or labels.min() < 0 or labels.max() >= classes:
        found = f"{labels.min()} to {labels.max()}" if count else "none at all"
        raise FileError(f"labels run from {found}, but the teacher tells {classes} classes apart (0 to {classes - 1})", where, "is this its data set?")


def normalise(pixels: np.ndarray, spec: InputSpec) -> Tensor:
    """uint8 (N, H, W, C) to the teacher's input space (N, C, H, W)."""
    mean, std = (torch.tensor(v, dtype=torch.float32) for v in (spec.mean, spec.std))
    return ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2)
