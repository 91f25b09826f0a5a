"""AIT (Choi et al., CVPR 2022, arXiv 2203.17008): every step is long enough to change a share of each layer's integer codes.

Descriptors and options only; imports no torch. The tuner is in ``zsq_ait.tuner``, the length of its steps in ``zsq_ait.inundation``, and
the counting of codes in ``zsq_ait.codes`` and ``zsq_ait.grid_group``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zsq import Component, Options, hookimpl, opt

#: The authors' schedule: 80,000 steps less the 800 of the warm-up; rate and share fall at epochs 100, 200 and 300 of 200 steps.
PAPER_SCHEDULE: Mapping[str, Any] = {
    "steps": 79_200,
    "lr": 1e-4,
    "range_lr": 0.0,
    "rho": 1e-3,
    "warm": False,
    "schedule": "step",
    "milestones": (19_200, 39_200, 59_200),
}


@dataclass(frozen=True, kw_only=True)
class AitOptions(Options):
    steps: int = opt(500, "Student steps.", ge=1)
    lr: float = opt(
        1e-4,
        "Learning rate at the start: of BatchNorm and biases as it is, of quantized weights multiplied by each layer's kappa.",
        gt=0,
        means="lr",
    )
    range_lr: float = opt(
        1e-2, "Learning rate of Adam at the start for the logarithm of every activation range; 0, as in the paper, keeps them.", ge=0
    )
    momentum: float = opt(0.9, "Nesterov momentum.", ge=0, lt=1)
    rho: float = opt(
        1e-3, "Share of every layer's codes that a step is to change at the start; falls as the learning rate does.", gt=0, le=1
    )
    rounds: int = opt(5, "Most bisections of kappa.", ge=0)
    tolerance: float = opt(0.01, "The bisection ends where the share is so near to rho, as a part of rho.", ge=0)
    doublings: int = opt(12, "Most doublings of kappa, so that no step is longer than 2**doublings times the plain one.", ge=0, le=30)
    warm: bool = opt(
        True,
        "Begin the doubling where the layer's last one ended instead of at 1, as the paper does: fewer probes, and the same factor "
        "wherever a longer step changes no fewer codes.",
    )
    released: bool = opt(
        False, "Take the bisection's last midpoint, as the authors' code does, though it may miss rho, instead of its upper end."
    )
    schedule: Literal["constant", "cosine", "step"] = opt(
        "cosine", "How learning rate and rho fall: to zero along a cosine, or by gamma at each milestone."
    )
    milestones: tuple[int, ...] = opt((), "Steps at which the step schedule multiplies both by gamma.", ge=1)
    gamma: float = opt(0.1, "Factor of the step schedule.", gt=0, le=1)


@hookimpl
def zsq_tuners() -> Iterator[Component]:
    yield Component(
        "ait",
        "zsq_ait.tuner:Ait",
        AitOptions,
        "Gradient descent in steps that change a share of every layer's integer codes.",
        presets={"ait-paper": PAPER_SCHEDULE, "ait-released": {**PAPER_SCHEDULE, "released": True}},
        needs={"student.output", "images"},
        paper="CVPR 2022, arXiv 2203.17008",
        suggests={"loss": [{"name": "kd", "temperature": 20.0, "reduction": "mean"}]},
    )
