"""AdaDFQ (Qian et al., CVPR 2023, arXiv 2303.06869), and as presets AdaSG (AAAI 2023, arXiv 2302.09572): GDFQ's generators
with a loss that keeps images neither too easy nor too hard for the student.

Light: descriptors and options only. The generator's loss is in ``zsq_adadfq.synth``, the student's in ``zsq_adadfq.losses``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zsq_gdfq import SHORT, GdfqOptions

from zsq import Component, Options, hookimpl, opt
from zsq.errors import OptionError

_PAPER = "CVPR 2023, arXiv 2303.06869"

#: AdaSG's constants, for every network and width.
_ADASG = {"alpha_ds": 0.1, "alpha_as": 0.1, "lambda_l": 0.3, "lambda_u": 0.8}

#: The authors' CIFAR schedule, in steps of 200 an epoch: learning rates fall at epochs 100, 200 and 300; 4 epochs of
#: warm-up, of which `ema` observes the last 100 steps.
_SCHEDULE = {"milestones": (20_000, 40_000, 60_000), "warmup": 700}

#: ImageNet, by network and bits: alpha_ds, lambda_l, the epochs at which learning rates fall, epochs of warm-up.
_IMAGENET: Mapping[tuple[str, int], tuple[float, float, tuple[int, ...], int]] = {
    ("resnet18", 3): (0.2, 0.1, (350,), 50),
    ("resnet18", 4): (0.2, 0.3, (350,), 50),
    ("resnet18", 5): (0.3, 0.3, (350,), 50),
    ("resnet50", 3): (0.2, 0.4, (150, 300), 100),
    ("resnet50", 4): (0.1, 0.3, (200, 300), 50),
    ("resnet50", 5): (0.2, 0.3, (350,), 50),
    ("mobilenetv2", 3): (0.2, 0.1, (350,), 50),
    ("mobilenetv2", 4): (0.3, 0.1, (350,), 50),
    ("mobilenetv2", 5): (0.2, 0.1, (350,), 50),
}


def _presets() -> dict[str, Mapping[str, Any]]:
    presets: dict[str, Mapping[str, Any]] = {"adadfq-paper": _SCHEDULE, "adasg": _ADASG, "adasg-paper": {**_ADASG, **_SCHEDULE}}
    for (network, bits), (alpha_ds, lambda_l, epochs, warmup) in _IMAGENET.items():
        schedule = {"milestones": tuple(200 * epoch for epoch in epochs), "warmup": 200 * warmup - 100}
        presets[f"adadfq-{network}-w{bits}"] = {"alpha_ds": alpha_ds, "lambda_l": lambda_l, **schedule}
    return presets


@dataclass(frozen=True, kw_only=True)
class AdadfqOptions(GdfqOptions):
    alpha_ds: float = opt(0.2, "Weight of images that only the teacher classifies correctly.", ge=0)
    alpha_as: float = opt(0.1, "Weight of images that both networks classify correctly.", ge=0)
    lambda_l: float = opt(0.1, "Lower end of the band for the normalised entropy of the difference; images below are too hard.", ge=0, le=1)
    lambda_u: float = opt(0.8, "Upper end of that band; images above are too easy.", ge=0, le=1)
    beta: float = opt(1.0, "Weight of the sum of both alpha terms, relative to the band's term.", ge=0)
    bns_weight: float = opt(1.0, "Weight of the BatchNorm statistics distance: the paper's gamma.", ge=0)
    observes: bool = opt(False, "Activation points also observe in the generator's step: ranges then include all values of that step.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lambda_l > self.lambda_u:
            raise OptionError(f"option 'lambda_l' is {self.lambda_l}, above lambda_u, {self.lambda_u}: the band is empty")


@dataclass(frozen=True, kw_only=True)
class LogitEntropyOptions(Options):
    temperature: float = opt(
        20.0, "Temperature that the difference of the logits is divided by; the authors take 20 on CIFAR, 5 on ImageNet.", gt=0
    )


@hookimpl
def zsq_synthesizers() -> Iterator[Component]:
    yield Component(
        "adadfq",
        "zsq_adadfq.synth:Adadfq",
        AdadfqOptions,
        "A generator that adapts its images to the student: neither too easy nor too hard.",
        presets=_presets(),
        needs={"classes", "teacher.output", "teacher.bn", "student.output"},
        provides={"targets"},
        paper=_PAPER,
        suggests={**SHORT, "loss": ["logit-entropy"]},
    )


@hookimpl
def zsq_losses() -> Iterator[Component]:
    yield Component(
        "logit-entropy",
        "zsq_adadfq.losses:LogitEntropy",
        LogitEntropyOptions,
        "Maximum entropy minus the entropy of the softened difference of the logits.",
        needs={"teacher.output", "student.output"},
        paper=_PAPER,
    )
