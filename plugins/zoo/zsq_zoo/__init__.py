"""Small teachers: three with weights (``zoo:resnet20-cifar10`` also with images), and their architectures for your own weights.

Light: descriptors and options only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsq import Component, Options, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class ZooOptions(Options):
    weights: str | None = opt(
        None, "Weights file for an architecture (zoo:resnet20, zoo:litelab…): safetensors, or a torch file that contains no code."
    )
    mean: tuple[float, ...] | None = opt(None, "Mean per channel that inputs were normalised with; else from the sidecar STEM.json.")
    std: tuple[float, ...] | None = opt(
        None, "Standard deviation per channel that inputs were normalised with; else from the sidecar.", gt=0
    )
    classes: int | None = opt(None, "Number of classes; else from the sidecar, else 10.", ge=2)


@hookimpl
def zsq_teachers() -> Iterator[Component]:
    yield Component(
        "zoo",
        "zsq_zoo.source:Zoo",
        ZooOptions,
        "Small networks: resnet20-cifar10, litelab-camvid, litedet-bccd complete; resnet20 … resnet56, litelab, litedet with --weights.",
        provides={"teacher.output", "teacher.features", "teacher.bn"},
        tasks={"litelab*": "segment", "litedet*": "detect"},
    )
