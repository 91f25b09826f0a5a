"""Draws the answers of both networks for the same images, if answers have places; each class has its own colour."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from zsq.errors import ZsqError
from zsq.protocols import Drawing, Drawn
from zsq.types import Teacher

#: Colours of classes that are told apart well (most by P. Tol, "Colour schemes", 2021); further ones go round the hues.
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#009988", "#bbbbbb", "#332288", "#6b3e1f",
            "#f2b5d4")  # fmt: skip

#: Images whose answers are drawn.
DRAWN = 8


@dataclass(frozen=True)
class Answers:
    """Drawings of both networks, image by image.

    ``alike`` is the share of each image's answers that are the same, in percent. ``colours`` gives every class that is seen its
    name and colour, the most frequent first. ``missing`` says why there are none.
    """

    teacher: list[Drawing] = field(default_factory=list)
    student: list[Drawing] = field(default_factory=list)
    alike: list[float] = field(default_factory=list)
    colours: dict[int, tuple[str, str]] = field(default_factory=dict)
    missing: str = ""


def draw(teacher: Teacher, theirs: Sequence[Any], ours: Sequence[Any]) -> Answers:
    """Drawings from the outputs of both networks, batch by batch, for the first images."""
    task = teacher.task
    assert isinstance(task, Drawn)
    drawn: tuple[list[Drawing], list[Drawing]] = ([], [])
    alike: list[float] = []
    for both in zip(theirs, ours, strict=True):
        if len(alike) >= DRAWN:
            break
        try:
            for into, output in zip(drawn, both, strict=True):
                into += task.draw(output, teacher)
        except ZsqError as error:
            return Answers(missing=error.what)
        a, b = (task.logits(output).argmax(1) for output in both)
        alike += (100 * (a == b).float().reshape(len(a), -1).mean(1)).tolist()
    first, second = (own[:DRAWN] for own in drawn)
    return Answers(first, second, alike[:DRAWN], _colours([*first, *second]))


def _colours(drawings: Sequence[Drawing]) -> dict[int, tuple[str, str]]:
    """Name and colour by class number: by area where there are areas, else by the number of boxes."""
    counts: Counter[int] = Counter()
    names: dict[int, str] = {}
    for drawing in drawings:
        if drawing.areas is not None:
            numbers, sizes = torch.unique(drawing.areas[drawing.areas >= 0], return_counts=True)
            counts.update(dict(zip(numbers.tolist(), sizes.tolist(), strict=True)))
        counts.update(box.label for box in drawing.boxes)
        names |= dict(enumerate(drawing.names))
    order = sorted(counts, key=lambda number: (-counts[number], number))
    return {number: (names.get(number, str(number)), _colour(at)) for at, number in enumerate(order)}


def _colour(at: int) -> str:
    if at < len(_COLOURS):
        return _COLOURS[at]
    red, green, blue = colorsys.hsv_to_rgb((0.618034 * at) % 1, 0.55 + 0.25 * (at % 2), 0.9 - 0.15 * (at % 3))
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
