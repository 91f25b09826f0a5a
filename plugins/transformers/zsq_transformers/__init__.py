"""Image classifiers of transformers: ``hub:microsoft/resnet-18``, or ``transformers:microsoft/resnet-18``.

Light: descriptors only.
"""

from __future__ import annotations

from collections.abc import Iterator

from zsq import Component, hookimpl
from zsq.options import InputOptions


@hookimpl
def zsq_teachers() -> Iterator[Component]:
    yield Component(
        "transformers",
        "zsq_transformers.source:Transformers",
        InputOptions,
        "Image classifiers of transformers on the Hub: transformers:ORG/NAME or transformers:ORG/NAME@REVISION.",
        provides={"teacher.output", "teacher.features", "teacher.bn"},
    )


@hookimpl
def zsq_readers() -> Iterator[Component]:
    yield Component(
        "transformers", "zsq_transformers.source:TransformersReader", InputOptions, "Image classifiers in the format of transformers."
    )
