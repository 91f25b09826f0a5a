"""Semantic segmentation: the task ``segment``, one class per pixel, and the evaluator ``segmentation``.

Only descriptors and options; imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsq import Component, Options, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(Options):
    classes: int = opt(2, "Number of classes of the network.", ge=2)


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions(Options):
    ref: str = opt("", "Path of a folder with images/ and labels/.")
    batch_size: int | None = opt(None, "Images per forward pass; by default about two million values, on a GPU 32 images.", ge=1)
    limit: int | None = opt(None, "Evaluate only this many images, from the first.", ge=1)
    ignore: tuple[int, ...] = opt((), "Labels to ignore; numbers that are not a class of the teacher are always ignored.", ge=0)


@hookimpl
def zsq_tasks() -> Iterator[Component]:
    yield Component("segment", "zsq_segment.task:Segment", SegmentOptions, "One of several classes per pixel.")


@hookimpl
def zsq_evaluators() -> Iterator[Component]:
    yield Component(
        "segmentation",
        "zsq_segment.evaluator:Segmentation",
        SegmentationOptions,
        "Mean intersection over union on real images: segmentation:DIR with images/ and labels/.",
    )
