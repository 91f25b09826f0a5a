"""Object detection: the task ``detect``, and the evaluator ``coco:FILE.json``.

Only descriptors and options; imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsq import Component, Options, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class DetectOptions(Options):
    classes: int = opt(2, "Number of scores per prior, including the background class if the network has one.", ge=1)


@dataclass(frozen=True, kw_only=True)
class CocoOptions(Options):
    ref: str = opt("", "Path of an annotation file in COCO's format.")
    images: str | None = opt(
        None, "Folder of the images; by default the folder beside the file with the same name, else the file's own folder."
    )
    batch_size: int | None = opt(None, "Images per forward pass; by default about 2 million values.", ge=1)
    limit: int | None = opt(None, "Evaluate only this many images, from the first.", ge=1)


@hookimpl
def zsq_tasks() -> Iterator[Component]:
    yield Component("detect", "zsq_detect.task:Detect", DetectOptions, "Boxes of objects, and the class of each.")


@hookimpl
def zsq_evaluators() -> Iterator[Component]:
    yield Component("coco", "zsq_detect.coco:Coco", CocoOptions, "Mean average precision of boxes on real images: coco:FILE.json.")
