"""DFQ (Nagel et al., ICCV 2019, arXiv 1906.04721): equalization, absorption, ranges and bias correction without data.

Only descriptors and options; imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zsq import Component, Options, hookimpl, opt

_PAPER = "ICCV 2019, arXiv 1906.04721"


@dataclass(frozen=True, kw_only=True)
class CleOptions(Options):
    relu6: Literal["cap", "relu"] = opt(
        "cap",
        "How ReLU6 is treated. cap: its bound is scaled with its channel, so the network computes the same; "
        "relu: every ReLU6 is replaced by ReLU, as in the paper.",
    )
    sweeps: int = opt(50, "Most sweeps over the network; 0 only moves the scale of BatchNorm into the weights.", ge=0)
    tolerance: float = opt(1e-3, "Sweeps end when no scale differs from 1 by more than this share.", gt=0)


@dataclass(frozen=True, kw_only=True)
class AbsorptionOptions(Options):
    deviations: float = opt(3.0, "Absorb the part of a bias that is more than this many standard deviations above zero.", ge=0)
    padded: bool = opt(False, "Also absorb into layers that pad with zeros, as the paper does; their outputs at the borders then change.")


@dataclass(frozen=True, kw_only=True)
class CorrectionOptions(Options):
    source: Literal["bn", "stream"] = opt(
        "bn",
        "Source of the mean inputs. bn: BatchNorm, without images; stream: the synthesizer's images, "
        "by comparing the student with itself in float.",
    )
    batches: int = opt(8, "Batches of the stream to compare on.", ge=1)


@dataclass(frozen=True, kw_only=True)
class BnRangeOptions(Options):
    deviations: float = opt(6.0, "Standard deviations on both sides of a channel's mean that a range covers.", gt=0)


@hookimpl
def zsq_calibrators() -> Iterator[Component]:
    yield Component(
        "cle",
        "zsq_dfq.equalization:Equalization",
        CleOptions,
        "Weights whose channels have equal ranges, for one scale per tensor; the network computes the same.",
        needs={"graph", "weights.live"},
        paper=_PAPER,
    )
    yield Component(
        "bias-absorption",
        "zsq_dfq.absorption:Absorption",
        AbsorptionOptions,
        "High biases before a ReLU, moved into the layer after it.",
        needs={"graph"},
        paper=_PAPER,
    )
    yield Component(
        "bn-range",
        "zsq_dfq.ranges:BnRange",
        BnRangeOptions,
        "Activation ranges from BatchNorm, without images.",
        needs={"graph", "act.range", "teacher.bn"},
        paper=_PAPER,
    )
    yield Component(
        "bias-correction",
        "zsq_dfq.correction:Correction",
        CorrectionOptions,
        "Biases that take back the mean error of quantized weights.",
        needs={"graph"},
        paper=_PAPER,
    )
