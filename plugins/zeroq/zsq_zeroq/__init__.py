"""ZeroQ (Cai et al., CVPR 2020, arXiv 2001.00281): images distilled from the teacher's BatchNorm statistics.

Light: descriptors and options only. What differs from the paper and from the authors' code is in the README.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zsq import Component, hookimpl, opt
from zsq.options import DescentOptions


@dataclass(frozen=True, kw_only=True)
class ZeroqOptions(DescentOptions):
    statistics: Literal["batch", "image"] = opt(
        "batch", "Statistics that are compared with BatchNorm's. batch: of the whole batch; image: of every single image."
    )
    spread: Literal["var", "std"] = opt(
        "var", "The second moment compared: variance, or standard deviation, the square root of variance + 1e-6."
    )
    unbiased: bool = opt(False, "Unbiased variance of the images: divide by the number of values minus one.")
    over_images: Literal["mean", "sum"] = opt("mean", "How the distances of single images are reduced, for statistics=image.")
    over_channels: Literal["mean", "sum"] = opt("mean", "How the squared differences of a layer's channels are reduced.")
    over_layers: Literal["mean", "sum"] = opt("mean", "How the distances of layers are reduced.")
    bn_weight: float = opt(3.0, "Weight of the distance to the teacher's BatchNorm statistics.", ge=0)
    mean_weight: float = opt(1.0, "Weight of means within that distance.", ge=0)
    spread_weight: float = opt(1.0, "Weight of variances or standard deviations within that distance.", ge=0)
    input_weight: float = opt(
        0.0, "Weight of the images' own distance to mean 0 and standard deviation 1 per colour, summed over colours.", ge=0
    )
    class_weight: float = opt(
        0.1,
        "Weight of the cross-entropy of the teacher's output to evenly dealt classes, if the task has classes; 0 leaves it out.",
        ge=0,
    )
    init: Literal["normal", "uniform", "released"] = opt(
        "normal",
        "Initial images. normal: N(0, 1); uniform: mean 0, standard deviation 1; released: uniform, standard deviation 0.0136.",
    )
    early_stop: float | None = opt(None, "End a batch once its loss is at most this times (BatchNorm layers + 1).", gt=0)
    clamp: bool = opt(False, "Clip pixels to black and white.")


#: Objective of the paper, equation 3: sums over channels and layers, means and standard deviations alike, the input as layer 0.
_EQUATION_3 = {
    "spread": "std",
    "over_channels": "sum",
    "over_layers": "sum",
    "bn_weight": 1.0,
    "input_weight": 1.0,
    "class_weight": 0.0,
}
#: Optimisation of the authors' code.
_LOOP = {"images": 32, "batch": 32, "iterations": 500, "lr": 0.5, "schedule": "plateau"}


@hookimpl
def zsq_synthesizers() -> Iterator[Component]:
    yield Component(
        "zeroq",
        "zsq_zeroq.synth:Zeroq",
        ZeroqOptions,
        "Images distilled from the teacher's BatchNorm statistics, made once and kept for later runs.",
        presets={
            "zeroq-paper": {**_EQUATION_3, **_LOOP},
            "zeroq-spectrum": {"basis": "spectrum"},
            "zeroq-released": {**_EQUATION_3, **_LOOP, "statistics": "image", "unbiased": True, "init": "released"},
        },
        needs={"teacher.output", "teacher.bn"},
        provides={"pool", "targets"},
        paper="CVPR 2020, arXiv 2001.00281",
        suggests={"calib": ["percentile"], "tune": {"name": "none"}},
    )
