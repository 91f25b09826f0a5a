"""IntraQ (Zhong et al., CVPR 2022, arXiv 2111.09136): images distilled so that those of one class differ.

Light: descriptors and options only. What differs from the paper and from the authors' code is in the README.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zsq import Component, hookimpl, opt
from zsq.errors import OptionError
from zsq.options import DescentOptions

#: What suits a few minutes on a CPU.
SHORT: Mapping[str, Any] = {
    "calib": ["aac", "abn"],
    "loss": [{"name": "kd", "temperature": 4.0}],
    "tune": {"name": "finetune", "steps": 500},
}


@dataclass(frozen=True, kw_only=True)
class IntraqOptions(DescentOptions):
    schedule: Literal["cosine", "plateau", "constant"] = opt(
        "cosine",
        "Learning-rate schedule. cosine: falls to zero; plateau: a tenth whenever the loss has not improved for 50 steps, down to 0.0001.",
    )
    bns_weight: float = opt(1.0, "Weight of the distance to the teacher's BatchNorm statistics.", ge=0)
    lor: float = opt(0.5, "Probability that a step uses crops of all images of the batch instead of the whole images.", ge=0, le=1)
    eta: float = opt(0.5, "Smallest share of an image's area that a crop keeps.", gt=0, le=1)
    mdc_weight: float = opt(1.0, "Weight of the margins around class centres; 0 leaves them out.", ge=0)
    lambda_l: float = opt(0.05, "Lower margin: images are pushed at least this far from their class centre.", ge=0, le=2)
    lambda_u: float = opt(0.8, "Upper margin: images are pulled at least this near to their class centre.", ge=0, le=2)
    group: int = opt(1, "Class centres are updated after this many batches, from all finished batches.", ge=1)
    sil_weight: float = opt(1.0, "Weight of the squared distance between the probability of an image's class and its target.", ge=0)
    eps: float = opt(0.95, "That target is 1 for half of the images, and uniform between eps and 1 for the others.", ge=0, le=1)
    hil_weight: float = opt(0.0, "Weight of HAST's cross-entropy, in which hard images have a larger weight.", ge=0)
    gamma: float = opt(2.0, "Exponent of that weight, (1 - probability of the image's class)^gamma.", gt=0)
    labels: Literal["even", "random"] = opt("even", "Classes of the images: dealt evenly, or drawn independently.")
    augment: bool = opt(True, "Hand out crops, half of them mirrored, except when the whole pool is requested at once.")
    least: float = opt(0.5, "Smallest share of an image's area that a crop of augment keeps.", gt=0, le=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lambda_l > self.lambda_u:
            raise OptionError(f"option 'lambda_l' is {self.lambda_l:g}, but must be at most lambda_u, {self.lambda_u:g}")


#: The authors' stage 1 with its CIFAR-10 values.
_PAPER: Mapping[str, Any] = {"images": 5120, "batch": 256, "iterations": 1000, "lr": 0.5, "schedule": "plateau", "labels": "random"}
#: HAST's stage 1 (Li et al., CVPR 2023, arXiv 2303.13826).
_HAST: Mapping[str, Any] = {**_PAPER, "mdc_weight": 0.0, "sil_weight": 0.0}


@hookimpl
def zsq_synthesizers() -> Iterator[Component]:
    yield Component(
        "intraq",
        "zsq_intraq.synth:Intraq",
        IntraqOptions,
        "Images distilled so that those of one class differ, made once and kept for later runs.",
        presets={
            "intraq-paper": _PAPER,
            "intraq-paper-cifar100": {**_PAPER, "eps": 0.6, "lambda_l": 0.02, "lambda_u": 1.0},
            "intraq-paper-imagenet": {**_PAPER, "eps": 0.9, "lambda_l": 0.3, "lambda_u": 0.8},
            "intraq-released-imagenet": {**_PAPER, "eps": 1.0, "mdc_weight": 0.0},
            "hast": {**_HAST, "lor": 0.0, "hil_weight": 10.0},
            "hast-imagenet": {**_HAST, "eta": 0.4, "hil_weight": 0.1, "gamma": 0.5},
        },
        needs={"classes", "teacher.output", "teacher.bn"},
        provides={"pool", "targets"},
        paper="CVPR 2022, arXiv 2111.09136",
        suggests=SHORT,
    )
