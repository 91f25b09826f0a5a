"""The Hugging Face Hub: ``hub:ORG/NAME`` loads a student that was pushed there; ``zsq push`` puts one there.

Light: descriptors only.
"""

from __future__ import annotations

from collections.abc import Iterator

from zsq import Component, Options, hookimpl


@hookimpl
def zsq_teachers() -> Iterator[Component]:
    yield Component(
        "hub",
        "zsq_hub.source:Hub",
        Options,
        "A zsq student from the Hugging Face Hub: hub:ORG/NAME, or hub:ORG/NAME@REVISION.",
        provides={"teacher.output", "teacher.features", "teacher.bn"},
    )
