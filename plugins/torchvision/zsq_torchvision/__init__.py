"""Teachers of torchvision: ``torchvision:resnet18``, ``torchvision:resnet50@IMAGENET1K_V1``, ``torchvision:fcn_resnet50``.

Light: descriptors and options only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsq import Component, hookimpl, opt
from zsq.options import InputOptions


@dataclass(frozen=True, kw_only=True)
class TorchvisionOptions(InputOptions):
    weights: str | None = opt(None, "Checkpoint of yours instead of the published one: safetensors, or a torch file without code in it.")
    classes: int | None = opt(None, "Number of classes of your checkpoint; else that of the published one.", ge=2)


@hookimpl
def zsq_teachers() -> Iterator[Component]:
    yield Component(
        "torchvision",
        "zsq_torchvision.source:Torchvision",
        TorchvisionOptions,
        "Networks of torchvision: torchvision:NAME, or torchvision:NAME@WEIGHTS with one of the published WEIGHTS, or --weights.",
        provides={"teacher.output", "teacher.features", "teacher.bn"},
        tasks={"deeplabv3_*": "segment", "fcn_*": "segment", "lraspp_*": "segment", "ssdlite320_*": "detect", "retinanet_*": "detect"},
    )
