"""Object detection: the task ``detect``, and the evaluator ``coco:FILE.json``.

Descriptors and options only; imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsq import Component, Options, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class DetectOptions(Options):
    classes: int = opt(2, "Number of scores per prior, a background class included where the network has one.", ge=1)


@dataclass(frozen=True, kw_only=True)
class CocoOptions(Options):
    ref: str = opt("", "Path of the annotations, as COCO writes them.")
    images: str | None = opt(
        None, "Folder of the images; by default the file's own folder, or the folder beside it that is called as the file is."
    )
    batch_size: int | None = opt(None, "Images per forward; by default as many as have 2 million values.", ge=1)
    limit: int | None = opt(None, "Evaluate the first so many images only.", ge=1)


@hookimpl
def zsq_tasks() -> Iterator[Component]:
    yield Component("detect", "zsq_detect.task:Detect", DetectOptions, "Boxes of objects, and the class of each.")


@hookimpl
def zsq_evaluators() -> Iterator[Component]:
    yield Component("coco", "zsq_detect.coco:Coco", CocoOptions, "Mean average precision of boxes on real images: coco:FILE.json.")
