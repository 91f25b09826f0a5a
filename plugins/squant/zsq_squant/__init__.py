"""SQuant (Guo et al., ICLR 2022, arXiv 2202.07471): weight rounding from the weights alone, activation ranges from noise.

Only descriptors and options; imports no torch. The rounding is in ``zsq_squant.rounding``, the ranges are in ``zsq_squant.ranges``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsq import Component, Options, hookimpl, opt
from zsq.options import UniformOptions

_PAPER = "ICLR 2022, arXiv 2202.07471"
_BITS = range(2, 9)


@dataclass(frozen=True, kw_only=True)
class SquantOptions(UniformOptions):
    kernel: bool = opt(True, "Stage K: bring the error sum of every kernel to at most half a step. Does nothing in 1x1 and linear layers.")
    channel: bool = opt(
        True, "Stage C: bring the error sum of every output channel to at most half a step, with at most one flip per kernel."
    )


@dataclass(frozen=True, kw_only=True)
class SquantRangeOptions(Options):
    images: int = opt(64, "Number of noise images.", ge=1)
    factor: float | None = opt(
        None, "Range in standard deviations of the positive activations; by default 12, 14, 25 for 4, 6, 8 bits, else linear.", gt=0
    )


@hookimpl
def zsq_quantizers() -> Iterator[Component]:
    yield Component(
        "squant",
        "zsq_squant.quantizer:Squant",
        SquantOptions,
        "Uniform grids whose weights are rounded so that errors cancel in every kernel and channel.",
        presets={f"squant{b}": {"weight_bits": b, "act_bits": b} for b in _BITS},
        provides={"act.range", "graph"},
        paper=_PAPER,
        suggests={"calib": ["squant-range"], "tune": {"name": "none"}},
    )


@hookimpl
def zsq_calibrators() -> Iterator[Component]:
    yield Component(
        "squant-range",
        "zsq_squant.ranges:SquantRange",
        SquantRangeOptions,
        "Activation ranges in standard deviations, from one forward of uniform noise.",
        needs={"act.range"},
        paper=_PAPER,
    )
