"""LRQ (Luo et al., Neural Networks 166, 2023, arXiv 2211.06816): long-range zero-shot generative quantization.

Only descriptors and options; imports no torch. The README says which images train the student, and which sign the margin has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zsq_gdfq import GdfqOptions
from zsq_intraq import IntraqOptions

from zsq import Component, Options, hookimpl, opt
from zsq.errors import OptionError

#: Settings for a few minutes on a CPU.
SHORT: Mapping[str, Any] = {
    "calib": ["aac", "abn"],
    "loss": ["ce", "dkd"],
    "tune": {"name": "finetune", "steps": 500},
}


@dataclass(frozen=True, kw_only=True)
class AmaOptions(IntraqOptions):
    """Stage 1: IntraQ's images, and the margin on the angle to the class centre."""

    margin: float = opt(0.5, "Margin on the angle between an image's features and its class centre, in radians; 0 is IntraQ.", ge=0, le=3)
    ama_sign: Literal[1, -1] = opt(
        1,
        "Whether the margin is added to the angle (1, the authors' code: images end nearer to the centre) or subtracted from it "
        "(-1, the abstract: further away).",
    )


@dataclass(frozen=True, kw_only=True)
class LrqOptions(GdfqOptions, AmaOptions):
    """Options of the generator and of stage 1. A name that both have belongs to the generator; stage 1 has ``pixel_lr`` and
    ``pixel_bns_weight`` instead, and the default ``gamma``."""

    train_data: Literal["both", "stage1", "generator"] = opt(
        "both",
        "Images that train the student. stage1: distilled images; the generator only calibrates ranges (the authors' code). "
        "generator: the generator's images. both: one batch of the generator, then one of distilled images.",
    )
    generator_steps: int | None = opt(
        None,
        "Steps, with warm-up, after which the generator stops learning; with train_data=stage1, later batches are images of stage 1; "
        "by default 100 after the warm-up for stage1, else never.",
        ge=0,
    )
    attention: Literal["auto", "upsampling", "block", "none"] = opt(
        "auto",
        "Position of the attention block: after the generator's first upsampling or after its first block; "
        "auto: after the block with conditional BatchNorm, else after the upsampling.",
    )
    kernel: int = opt(21, "Side of the large kernel that the attention decomposes.", ge=1)
    dilation: int = opt(3, "Dilation of its second depthwise convolution; the first is 2 * dilation - 1 wide.", ge=1)
    pixel_lr: float = opt(0.1, "Learning rate of Adam at the start, for the pixels of stage 1; the option schedule lowers it.", gt=0)
    pixel_bns_weight: float = opt(1.0, "Weight of the BatchNorm statistics in stage 1.", ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generator_steps is not None and self.generator_steps < self.warmup:
            raise OptionError(f"option 'generator_steps' is {self.generator_steps}, but must be at least warmup, {self.warmup}")
        if -(-self.kernel // self.dilation) % 2 == 0:
            raise OptionError(
                f"kernel {self.kernel} with dilation {self.dilation} gives a convolution of side {-(-self.kernel // self.dilation)}, "
                "which is even and has no centre",
                hint="choose them so that kernel / dilation, rounded up, is odd, e.g. 21 and 3",
            )

    def stage1(self) -> AmaOptions:
        """The options of stage 1."""
        own = {name: getattr(self, name) for name in AmaOptions.__dataclass_fields__ if name not in GdfqOptions.__dataclass_fields__}
        return AmaOptions(**{**own, "lr": self.pixel_lr, "bns_weight": self.pixel_bns_weight})


@dataclass(frozen=True, kw_only=True)
class DkdOptions(Options):
    alpha: float = opt(1.0, "Weight of the divergence of the target class against all others (TCKD).", ge=0)
    beta: float = opt(8.0, "Weight of the divergence among the other classes (NCKD).", ge=0)
    temperature: float = opt(1.0, "Temperature of every softmax; the loss is multiplied by its square.", gt=0)
    warmup: int = opt(0, "Student steps over which the loss grows linearly to its full weight; 0: full weight from the start.", ge=0)


#: The authors' schedule: stage 1, then 800 generator steps, of which `ema` observes the last 100.
_SCHEDULE: Mapping[str, Any] = {
    "images": 5120,
    "batch": 256,
    "iterations": 1000,
    "pixel_lr": 0.5,
    "schedule": "plateau",
    "labels": "random",
    "bns_weight": 0.1,
    "warmup": 700,
}
#: Bounds of stage 1: CIFAR's are IntraQ's, LRQ's own are not published; ImageNet's are those of LRQ's script.
_BANDS: Mapping[str, Mapping[str, Any]] = {
    "": {"eps": 0.95, "lambda_l": 0.05, "lambda_u": 0.8},
    "-cifar100": {"eps": 0.6, "lambda_l": 0.02, "lambda_u": 1.0},
    "-imagenet": {"eps": 0.9, "lambda_l": 0.3, "lambda_u": 0.8},
}
_RELEASED: Mapping[str, Any] = {**_SCHEDULE, "train_data": "stage1", "generator_steps": 800, "ama_sign": 1}
_PAPER: Mapping[str, Any] = {**_SCHEDULE, "train_data": "both", "ama_sign": -1}


@hookimpl
def zsq_synthesizers() -> Iterator[Component]:
    yield Component(
        "lrq",
        "zsq_lrq.synth:Lrq",
        LrqOptions,
        "A generator with large kernel attention beside images distilled with an angular margin.",
        presets={
            **{f"lrq-paper{which}": {**_PAPER, **band} for which, band in _BANDS.items()},
            **{f"lrq-released{which}": {**_RELEASED, **band} for which, band in _BANDS.items()},
        },
        needs={"classes", "teacher.output", "teacher.bn"},
        provides={"targets"},
        paper="Neural Networks 166, 2023, arXiv 2211.06816",
        suggests=SHORT,
    )


@hookimpl
def zsq_losses() -> Iterator[Component]:
    yield Component(
        "dkd",
        "zsq_lrq.loss:Dkd",
        DkdOptions,
        "Decoupled knowledge distillation: the target class and the others weighed apart.",
        needs={"student.output", "teacher.output", "targets"},
        paper="CVPR 2022, arXiv 2203.08679",
    )
