"""Answers of teacher and student side by side over the same image: for the page, and as one picture beside it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import get_data_path

from zsq.protocols import Drawing
from zsq.types import InputSpec
from zsq_report.answers import Answers
from zsq_report.gallery import data, pictures, shown_as_pictures
from zsq_report.look import INK, PAPER
from zsq_report.measure import Seen

#: The longest side of a drawing, to which images are made smaller, and how much of an area's colour covers them.
LONGEST, COVER = 224, 0.62
#: Height of a letter in the page's drawings, in the same units, and its width beside that.
_LETTER, _WIDE = 14, 0.62
#: Of the picture: columns of the legend, height of a line of text and space between images, in pixels.
_COLUMNS, _LINE, _GAP = 4, 18, 8


@dataclass(frozen=True)
class Label:
    """One box as a page draws it: its corner and size, and where its text begins, in units of the drawing."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    text: str
    text_x: float
    text_y: float


@dataclass(frozen=True)
class Side:
    """One network's answer: in words, its areas as a picture to lay over the image (empty without), its boxes."""

    who: str
    said: str
    mask: str
    boxes: list[Label]


@dataclass(frozen=True)
class Pair:
    """Both answers to one image, whose file is ``source``, in a drawing of ``width`` x ``height``; ``alike`` in percent."""

    source: str
    width: int
    height: int
    alike: float
    sides: tuple[Side, Side]


def pairs(seen: Seen, inputs: InputSpec) -> list[Pair]:
    """Every image that was looked at, where there are drawings of it and it can be shown."""
    answers = seen.answers
    if seen.shown is None or not answers.teacher or not shown_as_pictures(inputs):
        return []
    made = []
    shown, size = pictures(seen.shown[: len(answers.teacher)], inputs, LONGEST), _size(inputs)
    for picture, theirs, ours, alike in zip(shown, answers.teacher, answers.student, answers.alike, strict=True):
        both = (_side("teacher", theirs, answers, inputs, picture.size), _side("student", ours, answers, inputs, picture.size))
        made.append(Pair(data(_base(picture, theirs)), *size, alike, both))
    return made


def sheet(seen: Seen, inputs: InputSpec) -> bytes:
    """The same as one PNG file: a row per image, teacher on the left, with a legend; empty if there is nothing to draw."""
    answers = seen.answers
    if seen.shown is None or not answers.teacher or not shown_as_pictures(inputs):
        return b""
    from PIL import Image, ImageDraw, ImageFont

    (width, height), font = _size(inputs), ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), _LETTER - 2)
    legend = -(-len(answers.colours) // _COLUMNS) * _LINE + _GAP
    shown = pictures(seen.shown[: len(answers.teacher)], inputs, LONGEST)
    made = Image.new("RGB", (2 * width + 3 * _GAP, legend + len(shown) * (height + _LINE + _GAP)), PAPER)
    pen = ImageDraw.Draw(made)
    for at, (name, colour) in enumerate(answers.colours.values()):
        left, top = _GAP + at % _COLUMNS * (made.width - _GAP) // _COLUMNS, _GAP + at // _COLUMNS * _LINE
        pen.rectangle((left, top, left + _LETTER - 2, top + _LETTER - 2), colour, INK)
        pen.text((left + _LINE, top - 1), name, INK, font)
    for row, (picture, *both) in enumerate(zip(shown, answers.teacher, answers.student, strict=True)):
        top = legend + row * (height + _LINE + _GAP)
        for left, who, drawing in zip((_GAP, width + 2 * _GAP), ("teacher", "student"), both, strict=True):
            pen.text((left, top), f"{row + 1}: {who}", INK, font)
            made.paste(_painted(picture, drawing, answers, inputs, font), (left, top + _LINE))
    file = io.BytesIO()
    made.quantize(256, Image.Quantize.FASTOCTREE).save(file, "PNG")
    return file.getvalue()


def _painted(picture: Any, drawing: Drawing, answers: Answers, inputs: InputSpec, font: Any) -> Any:
    """One network's answer over the image, as a PIL image."""
    from PIL import Image, ImageDraw

    size = _size(inputs)
    base = _base(picture, drawing).convert("RGB").resize(size, Image.Resampling.NEAREST)
    if drawing.areas is not None:
        mask = _mask(drawing, answers, picture.size).convert("RGBA").resize(size, Image.Resampling.NEAREST)
        base = Image.composite(Image.blend(base, mask.convert("RGB"), COVER), base, mask.getchannel("A"))
    pen = ImageDraw.Draw(base)
    labels = _labels(drawing, answers, inputs)
    for label in labels:
        corners = (label.x, label.y, label.x + label.width, label.y + label.height)
        pen.rectangle((corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1), outline=PAPER, width=5)
        pen.rectangle(corners, outline=label.colour, width=3)
    for label in labels:
        pen.text((label.text_x, label.text_y), label.text, INK, font, anchor="ls", stroke_width=2, stroke_fill=PAPER)
    return base


def _side(who: str, drawing: Drawing, answers: Answers, inputs: InputSpec, size: tuple[int, int]) -> Side:
    mask = ""
    if drawing.areas is not None:
        picture = _mask(drawing, answers, size)
        mask = data(picture, transparency=picture.info["transparency"], optimize=True)
    return Side(who, drawing.said, mask, _labels(drawing, answers, inputs))


def _mask(drawing: Drawing, answers: Answers, size: tuple[int, int]) -> Any:
    """Areas as a PIL image with a palette, of ``size`` (width, height); places without a class are transparent."""
    from PIL import Image

    assert drawing.areas is not None
    areas = drawing.areas.cpu().numpy()
    rows, columns = (np.arange(wanted) * have // wanted for wanted, have in zip(size[::-1], areas.shape, strict=True))
    areas = areas[rows][:, columns]
    codes = np.zeros(areas.shape, np.uint8)
    palette = [0, 0, 0]
    for code, (number, (_, colour)) in enumerate(list(answers.colours.items())[:255], 1):
        codes[areas == number] = code
        palette += [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    picture = Image.fromarray(codes)
    picture.putpalette(palette)
    picture.info["transparency"] = 0
    return picture


def _size(inputs: InputSpec) -> tuple[int, int]:
    """Width and height of a drawing."""
    height, width = inputs.shape[1:]
    return round(width * LONGEST / max(height, width)), round(height * LONGEST / max(height, width))


def _base(picture: Any, drawing: Drawing) -> Any:
    """The image under a drawing: grey under areas, so that colours are those of classes."""
    return picture.convert("L") if drawing.areas is not None else picture


def _labels(drawing: Drawing, answers: Answers, inputs: InputSpec) -> list[Label]:
    """Boxes with their texts: above, or inside where there is no room, or farther down where another text is already."""
    size, made = _size(inputs), list[Label]()
    scale = (size[0] / inputs.shape[2], size[1] / inputs.shape[1])
    for box in drawing.boxes:
        left, top, right, bottom = (round(corner * scale[i % 2], 1) for i, corner in enumerate(box.corners))
        name, colour = answers.colours[box.label]
        text = f"{name} {100 * box.score:.0f} %"
        x = max(0.0, min(left, size[0] - _WIDE * _LETTER * len(text)))
        first = top - 3 if top > _LETTER + 3 else top + _LETTER
        rows = [y for i in range(size[1] // _LETTER) if (y := first + i * _LETTER) < size[1]] or [size[1] - 2.0]
        y = next((y for y in rows if not any(_meet(x, y, text, other) for other in made)), rows[0])
        made.append(Label(left, top, round(right - left, 1), round(bottom - top, 1), colour, text, round(x, 1), round(y, 1)))
    return made


def _meet(x: float, y: float, text: str, other: Label) -> bool:
    """Whether a text that begins at ``x`` on the line ``y`` lies over that of a box."""
    width = _WIDE * _LETTER
    beside = x + width * len(text) < other.text_x or other.text_x + width * len(other.text) < x
    return not beside and abs(y - other.text_y) < _LETTER
