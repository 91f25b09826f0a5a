"""AIT (Choi et al., CVPR 2022, arXiv 2203.17008): steps long enough to change a share of every layer's integer codes.

Only descriptors and options; imports no torch. The tuner is in ``zsq_ait.tuner``, the length of its steps in ``zsq_ait.inundation``, and
the counting of codes in ``zsq_ait.codes`` and ``zsq_ait.grid_group``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zsq import Component, Options, hookimpl, opt

#: The authors' schedule: 80,000 steps minus 800 of warm-up; ``lr`` and ``rho`` fall at epochs 100, 200 and 300 of 200 steps.
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
        "Learning rate at the start, of BatchNorm and biases; for quantized weights it is multiplied by each layer's kappa.",
        gt=0,
        means="lr",
    )
    range_lr: float = opt(
        1e-2, "Learning rate of Adam at the start, for the logarithm of every activation range; 0, as in the paper, keeps the ranges.", ge=0
    )
    momentum: float = opt(0.9, "Nesterov momentum.", ge=0, lt=1)
    rho: float = opt(
        1e-3, "Share of every layer's codes that a step must change at the start; follows the learning-rate schedule.", gt=0, le=1
    )
    rounds: int = opt(5, "Most bisections of kappa.", ge=0)
    tolerance: float = opt(0.01, "The bisection ends when the share differs from rho by less than this part of rho.", ge=0)
    doublings: int = opt(12, "Most doublings of kappa: no step is longer than 2**doublings times the plain step.", ge=0, le=30)
    warm: bool = opt(
        True,
        "Start doubling from the layer's last kappa; off: from 1, as in the paper. On needs fewer probes, and finds the same kappa "
        "if a longer step never changes fewer codes.",
    )
    released: bool = opt(
        False, "Use the last midpoint of the bisection instead of its upper end, as the authors' code does; it may change less than rho."
    )
    schedule: Literal["constant", "cosine", "step"] = opt(
        "cosine", "Learning-rate schedule, also of rho: constant; to zero along a cosine; or times gamma at each milestone."
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
