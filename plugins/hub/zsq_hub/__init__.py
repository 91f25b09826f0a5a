"""The Hugging Face Hub: ``hub:ORG/NAME`` as a teacher, and as a place that students are published to and fetched from.

Light: descriptors only.
"""

from __future__ import annotations

from collections.abc import Iterator

from zsq import Component, hookimpl
from zsq.options import InputOptions


@hookimpl
def zsq_teachers() -> Iterator[Component]:
    yield Component(
        "hub",
        "zsq_hub.source:Hub",
        InputOptions,
        "A network from the Hugging Face Hub: hub:ORG/NAME, or hub:ORG/NAME@REVISION; a student of zsq, or what a plugin reads.",
        provides={"teacher.output", "teacher.features", "teacher.bn"},
    )


@hookimpl
def zsq_stores() -> Iterator[Component]:
    yield Component(
        "hub", "zsq_hub.store:HubStore", summary="The Hugging Face Hub: hub:ORG/NAME, or hub:ORG/NAME@REVISION; a push is one commit."
    )
