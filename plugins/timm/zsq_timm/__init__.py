"""Teachers of timm: ``timm:resnet18.a1_in1k``; its reader also loads repositories in timm's format from a store.

Light: descriptors and options only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsq import Component, hookimpl, opt
from zsq.options import InputOptions


@dataclass(frozen=True, kw_only=True)
class TimmOptions(InputOptions):
    weights: str | None = opt(None, "Checkpoint of yours instead of the published one: safetensors, or a torch file without code in it.")
    classes: int | None = opt(None, "Number of classes of your checkpoint; else that of the published one.", ge=2)


@hookimpl
def zsq_teachers() -> Iterator[Component]:
    yield Component(
        "timm",
        "zsq_timm.source:Timm",
        TimmOptions,
        "Networks of timm: timm:NAME, timm:NAME.TAG or timm:NAME.TAG@REVISION, with weights from the Hub or --weights.",
        provides={"teacher.output", "teacher.features", "teacher.bn"},
    )


@hookimpl
def zsq_readers() -> Iterator[Component]:
    yield Component("timm", "zsq_timm.source:TimmReader", InputOptions, "Repositories in timm's format: config.json and model.safetensors.")
