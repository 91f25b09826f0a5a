"""AAC and ABN (He et al., Neural Processing Letters 2023, arXiv 2204.04215): accurate activation clipping, adaptive BatchNorm.

Light: descriptors and options only. The authors published no code; the README lists what is reconstructed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zsq import Component, Options, hookimpl, opt

_PAPER = "Neural Processing Letters 2023, arXiv 2204.04215"


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """Options of the images that both calibrators make."""

    images: int = opt(256, "Images to make.", ge=2)
    batch: int = opt(128, "Images that are optimised together, by their joint statistics.", ge=2, means="batch")
    steps: int = opt(60, "Optimisation steps for every batch.", ge=1)
    lr: float = opt(0.1, "Learning rate of Adam on the pixels at the start; it falls to zero along a cosine.", gt=0, means="lr")
    clamp: bool = opt(False, "Clip pixels to black and white.")


@dataclass(frozen=True, kw_only=True)
class AacOptions(ImageOptions):
    variant: Literal["logit-target", "logit", "ce"] = opt(
        "logit-target",
        "Objective of the images. logit-target: class logit close to a target; logit: class logit, unbounded; ce: cross-entropy.",
    )
    target: float | None = opt(None, "Target of logit-target; by default the mean logit that a third of the steps with ce reaches.")
    bn_weight: float = opt(3.0, "Weight of the distance to the teacher's BatchNorm statistics.", ge=0)
    reduction: Literal["mean-image-max", "max", "percentile"] = opt(
        "mean-image-max",
        "From activations to a range. mean-image-max: mean over images of each image's extremes; max: extremes of all; "
        "percentile: the share of values in option percent.",
    )
    percent: float = opt(99.9, "Share of values inside the range for the reduction percentile, in percent.", gt=50, le=100)


@dataclass(frozen=True, kw_only=True)
class AbnOptions(ImageOptions):
    source: Literal["bns", "stream"] = opt(
        "bns",
        "Images for the comparison. bns: own images that match the teacher's BatchNorm statistics; stream: the synthesizer's.",
    )
    ce_weight: float = opt(0.3, "Weight of the cross-entropy beside the statistics for own images that have a class.", ge=0)
    mode: Literal["shift", "ema"] = opt(
        "shift",
        "shift: add to every BatchNorm what quantization changes in its input; ema: replace its statistics by a moving average.",
    )
    limit: float = opt(4.0, "Largest factor, up or down, on a variance in mode shift.", gt=1)
    momentum: float = opt(0.1, "Share of new statistics at each update in mode ema.", gt=0, le=1)
    passes: int = opt(10, "Passes over the images in mode ema.", ge=1)


@hookimpl
def zsq_calibrators() -> Iterator[Component]:
    yield Component(
        "aac",
        "zsq_aac.clipping:Aac",
        AacOptions,
        "Activation ranges from images that drive the teacher's class logits up.",
        needs={"classes", "act.range", "teacher.output", "teacher.bn"},
        paper=_PAPER,
    )
    yield Component(
        "abn",
        "zsq_aac.batchnorm:Abn",
        AbnOptions,
        "BatchNorm statistics of the student, corrected for what quantization shifted.",
        needs={"teacher.output", "teacher.bn"},
        paper=_PAPER,
    )
