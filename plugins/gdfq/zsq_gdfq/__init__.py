"""GDFQ (Xu et al., ECCV 2020, arXiv 2003.03603): a class-conditional generator that is trained together with the student.

Light: descriptors and options only. Methods based on GDFQ share :class:`GeneratorOptions` here, ``zsq_gdfq.generator``
and ``zsq_gdfq.synth``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zsq import Component, Options, hookimpl, opt
from zsq.errors import OptionError

#: The authors' schedule: 400 epochs of 200 steps, the learning rate falls at epochs 100, 200 and 300; 4 epochs
#: of warm-up, of which `ema` observes the last 100 steps (with decay 0.9 earlier ones have no influence).
PAPER_SCHEDULE = {"milestones": (20_000, 40_000, 60_000), "warmup": 700, "bns_weight": 0.1}

#: Settings for a few minutes on a CPU: ranges and BatchNorm from their own images, then a loss on logits only.
SHORT: Mapping[str, Any] = {
    "calib": ["aac", "abn"],
    "loss": [{"name": "kd", "temperature": 4.0}],
    "tune": {"name": "finetune", "steps": 500},
}


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions(Options):
    """Options of all synthesizers that are based on GDFQ."""

    channels: int = opt(128, "Channels of the generator's first two stages; the third has half.", ge=2)
    bn_eps: float = opt(0.8, "Epsilon of the inner BatchNorm layers; 0.8 as in the authors' code.", gt=0)
    bns_weight: float = opt(
        1.0, "Weight of the BatchNorm statistics distance beside the cross-entropy; the paper's 0.1 needs a longer schedule.", ge=0
    )
    lr: float = opt(1e-3, "Learning rate of the generator's Adam.", gt=0, means="lr")
    betas: tuple[float, ...] = opt((0.5, 0.999), "Both betas of the generator's Adam.", ge=0, lt=1)
    milestones: tuple[int, ...] = opt((), "Generator steps at which its learning rate is multiplied by gamma.", ge=1)
    gamma: float = opt(0.1, "Factor of the learning rate at each milestone.", gt=0, le=1)
    warmup: int = opt(200, "Generator steps before the first batch is handed out.", ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2:
            raise OptionError(f"option 'betas' has {len(self.betas)} values, but must have 2")


@dataclass(frozen=True, kw_only=True)
class GdfqOptions(GeneratorOptions):
    latent_dim: int = opt(100, "Length of the noise vector.", ge=1)
    conditioning: Literal["auto", "product", "cbn"] = opt(
        "auto",
        "How the class enters. product multiplies the noise with a label embedding (the authors' CIFAR generator), cbn gives every "
        "class its own BatchNorm scale and shift (their ImageNet generator); auto takes cbn from 64 pixels on.",
    )


@hookimpl
def zsq_synthesizers() -> Iterator[Component]:
    yield Component(
        "gdfq",
        "zsq_gdfq.synth:Gdfq",
        GdfqOptions,
        "A class-conditional generator that is trained together with the student.",
        presets={"gdfq-paper": PAPER_SCHEDULE},
        needs={"classes", "teacher.output", "teacher.bn"},
        provides={"targets"},
        paper="ECCV 2020, arXiv 2003.03603",
        suggests=SHORT,
    )
