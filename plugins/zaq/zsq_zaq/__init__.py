"""ZAQ (Liu, Zhang, Wang, CVPR 2021, arXiv 2103.15263): a generator and the student are trained against each other.

Light: descriptors and options only. The README lists what the paper leaves open and where the authors' code differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zsq_gdfq import GeneratorOptions

from zsq import Component, Options, hookimpl, opt

_PAPER = "CVPR 2021, arXiv 2103.15263"
_FEATURES = frozenset({"teacher.features", "student.features"})
_OUTPUT = frozenset({"teacher.output", "student.output"})

#: 300 epochs of 60 generator steps; the learning rate falls at epochs 100 and 200.
_SCHEDULE = {"milestones": (6_000, 12_000)}
_NORM_HELP = "mean: over all values, as the authors' code; l1: the sum over"


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    norm: Literal["mean", "l1"] = opt("mean", f"{_NORM_HELP} an image's logits, as the paper writes.")


@dataclass(frozen=True, kw_only=True)
class ScrmOptions(Options):
    last: bool = opt(True, "Whether the last tap counts too; in the paper's figure only the activation regulariser uses it.")
    eps: float = opt(1e-6, "Channels or pixels with a smaller norm are left out.", gt=0)


@dataclass(frozen=True, kw_only=True)
class CrmOptions(ScrmOptions):
    layer_weight: Literal["adaptive", "uniform"] = opt(
        "adaptive", "Weights of the taps. adaptive: larger where the networks disagree more (reconstructed), 1 on average; uniform: 1 each."
    )


@dataclass(frozen=True, kw_only=True)
class ZaqOptions(GeneratorOptions):
    features: Literal["crm", "scrm", "none"] = opt(
        "crm",
        "Feature discrepancy. crm: cosines between channels, as the paper; scrm: attended features, as the authors' code; none.",
    )
    alpha: float = opt(1.0, "Weight of the feature discrepancy in the generator's loss.", ge=0)
    beta: float = opt(0.1, "Weight of the activation regulariser: the generator maximises the teacher's last features.", ge=0)
    layer_weight: Literal["adaptive", "uniform"] = opt("adaptive", "Weights of the taps in crm; see loss crm.")
    last: bool = opt(True, "Whether the last tap counts in the feature discrepancy; see loss crm.")
    norm: Literal["mean", "l1"] = opt(
        "mean", f"{_NORM_HELP} an image's logits, and over a feature map of the teacher's last features, as the paper writes."
    )
    log_output: bool = opt(False, "Use -log(D + 1) instead of -D for the output discrepancy D: limits it for outputs with many pixels.")
    latent_dim: int = opt(256, "Length of the noise vector.", ge=1)
    channels: int = opt(
        128,
        "Channels of the small generator's first two stages; the large one, from 64 pixels on, starts with four times as many.",
        ge=2,
    )
    clamp: bool = opt(
        False,
        "Keep pixels between black and white, with a learned brightness and contrast per colour, instead of mean 0 and "
        "variance 1 in the teacher's input space; not part of ZAQ.",
    )
    waves: bool = opt(
        False,
        "Our large generator: fresh noise for every position at each stage, and in the image as coloured waves of every scale; "
        "interpolation instead of transposed convolutions, which leave a grid. Not part of ZAQ.",
    )
    bn_eps: float = opt(1e-5, "Epsilon of the inner BatchNorm layers.", gt=0)
    bns_weight: float = opt(0.0, "Weight of the BatchNorm statistics distance in the generator's loss; not part of ZAQ.", ge=0)
    betas: tuple[float, ...] = opt((0.9, 0.999), "Both betas of the generator's Adam.", ge=0, lt=1)
    bns_scale: Literal["absolute", "relative"] = opt(
        "absolute",
        "Unit of that distance. absolute: as in GDFQ; relative: every channel in units of its own standard deviation, so that a few "
        "channels with large values do not dominate.",
    )
    warmup: int = opt(0, "Generator steps before the first batch is handed out; not part of ZAQ.", ge=0)
    warmup_student: bool = opt(
        True,
        "Whether the warm-up also maximises the disagreement with the student, before activations are quantized; without, it is faster.",
    )
    watch: bool = opt(
        False,
        "Activation ranges are the extremes of all student activations in generator steps, as in the authors' code; for chains "
        "without calibrators and with range_lr=0.",
    )


@hookimpl
def zsq_synthesizers() -> Iterator[Component]:
    yield Component(
        "zaq",
        "zsq_zaq.synth:Zaq",
        ZaqOptions,
        "A generator of images on which teacher and student disagree.",
        presets={
            "zaq-paper": {"alpha": 0.1, "beta": 0.05, "last": False, "norm": "l1", **_SCHEDULE},
            "zaq-released": {"features": "scrm", **_SCHEDULE},
        },
        needs=_OUTPUT | _FEATURES,
        paper=_PAPER,
        suggests={
            "calib": ["aac", "abn"],
            "loss": ["logit-l1", "crm"],
            "tune": {"name": "finetune", "steps": 500},
        },
    )


@hookimpl
def zsq_losses() -> Iterator[Component]:
    yield Component(
        "logit-l1",
        "zsq_zaq.losses:LogitL1",
        OutputOptions,
        "Absolute difference of teacher's and student's logits.",
        needs=_OUTPUT,
        paper=_PAPER,
    )
    yield Component(
        "crm",
        "zsq_zaq.losses:Crm",
        CrmOptions,
        "Absolute difference of channel relation maps: the cosines between a layer's channels, blind to scale.",
        needs=_FEATURES,
        paper=_PAPER,
    )
    yield Component(
        "scrm",
        "zsq_zaq.losses:Scrm",
        ScrmOptions,
        "Absolute difference of features refined by spatial and channel attention.",
        needs=_FEATURES,
        paper=_PAPER,
    )
