"""Mixed precision by sensitivities and a Pareto frontier (Cai et al., CVPR 2020, arXiv 2001.00281, ZeroQ's second half).

Descriptors and options only; imports no torch. What differs from the paper is in the README.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zsq import Component, Options, hookimpl, opt
from zsq.errors import OptionError

#: Budgets, of which one is given at most.
BUDGETS = ("mean_bits", "size_mb", "bops")


@dataclass(frozen=True, kw_only=True)
class ParetoOptions(Options):
    candidates: tuple[int, ...] = opt((2, 3, 4, 6, 8), "Weight bits to choose from, layer by layer.", ge=2, le=16, means="bits")
    mean_bits: float | None = opt(None, "Budget: bits per weight on average over all weights; 4 where no budget is given.", gt=0)
    size_mb: float | None = opt(None, "Budget: size of all quantized weights in MB of 2^20 bytes.", gt=0)
    bops: float | None = opt(
        None, "Budget: weight bits x input bits x multiply-adds of an image, summed over layers; an input in float has 32 bits.", gt=0
    )
    act_bits: int | None = opt(8, "Bits of every activation; none leaves activations in float.", ge=2, le=16, means="bits")
    act_candidates: tuple[int, ...] = opt(
        (), "Activation bits to choose from, site by site, under the budget bops; by default all have act_bits.", ge=2, le=16
    )
    act_percent: float = opt(
        100.0, "Share of values inside an activation's range while its sensitivity is measured, in percent.", gt=50, le=100
    )
    interactions: bool = opt(
        True, "Count how the errors of layers add up or cancel; off: every layer's harm is its own and they add up, as in the paper."
    )
    images: int | None = opt(None, "Images of the pool to measure sensitivities on; none takes all.", ge=1)
    bins: int | None = opt(
        None,
        "Points that the frontier is thinned to after every layer, for very deep networks; by default it is exact.",
        ge=1,
    )
    weight_symmetric: bool | None = opt(None, "Symmetric weight grid; by default as the scheme says (paper: no, deploy: yes).")
    act_symmetric: bool | None = opt(None, "Symmetric activation grid; by default no.")
    per_channel: bool = opt(True, "One weight scale per output channel instead of one per tensor.")
    scheme: Literal["paper", "deploy"] = opt(
        "paper",
        "Where activations are quantized. paper: after ReLU and ReLU6 only, as the published tables; "
        "deploy: the input, every convolution and linear input and every residual sum, for export.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"there are {len(given)} budgets: {' and '.join(given)}", "", "give one of them")
        if not self.candidates:
            raise OptionError("option 'candidates' is empty", "", "e.g. candidates=2,3,4,6,8")
        if self.act_candidates and (self.bops is None or self.act_bits is None):
            hint = "no other budget counts the bits of activations" if self.bops is None else "leave act_bits at a number"
            raise OptionError("option 'act_candidates' needs the budget bops and quantized activations", "", hint)


@hookimpl
def zsq_quantizers() -> Iterator[Component]:
    yield Component(
        "pareto",
        "zsq_pareto.quantizer:Pareto",
        ParetoOptions,
        "Uniform grids whose bits are chosen layer by layer: least harm under a budget on size or operations.",
        needs={"pool", "teacher.output"},
        presets={"pareto-paper": {"interactions": False}},
        provides={"act.range", "graph", "weights.live"},
        paper="CVPR 2020, arXiv 2001.00281",
        suggests={"calib": ["mean-image-max"], "tune": {"name": "none"}},
    )
