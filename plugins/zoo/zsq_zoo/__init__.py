"""Small teachers: ``zoo:resnet20-cifar10`` comes with weights and evaluation images; the CIFAR ResNet family takes yours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsq import Component, Options, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class ZooOptions(Options):
    weights: str | None = opt(None, "Checkpoint for zoo:resnet20, resnet32, resnet44 or resnet56; its sidecar STEM.json gives the input spec.")


@hookimpl
def zsq_teachers() -> Iterator[Component]:
    yield Component(
        "zoo",
        "zsq_zoo.source:Zoo",
        ZooOptions,
        "Small networks by name: zoo:resnet20-cifar10 (embedded), zoo:resnet20 … resnet56 with --weights.",
        provides={"teacher.output", "teacher.features", "teacher.bn"},
    )
