"""Answers of teacher and student side by side over the same image: for the page, and as one picture beside it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from zsq.types import Box, Drawing, InputSpec
from zsq_report.answers import Answers
from zsq_report.gallery import data, pictures, shown_as_pictures
from zsq_report.look import INK, PAPER
from zsq_report.measure import Seen

#: The longest side of a drawing, to which images are made smaller, and how much of an area's colour covers them.
LONGEST, COVER = 224, 0.62
#: Height of a letter in the page's drawings, in the same units, and its width beside that.
_LETTER, _WIDE = 14, 0.62
#: Dots per inch of the picture.
_DPI = 110


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
    if seen.inputs is None or not answers.teacher or not shown_as_pictures(inputs):
        return []
    made = []
    shown, size = pictures(seen.inputs[: len(answers.teacher)], inputs, LONGEST), _size(inputs)
    for picture, theirs, ours, alike in zip(shown, answers.teacher, answers.student, answers.alike, strict=True):
        both = (_side("teacher", theirs, answers, inputs, picture.size), _side("student", ours, answers, inputs, picture.size))
        made.append(Pair(data(picture), *size, alike, both))
    return made


def sheet(seen: Seen, inputs: InputSpec) -> bytes:
    """The same as one PNG file: a row per image, teacher on the left, with a legend; empty where there is nothing to draw."""
    answers = seen.answers
    if seen.inputs is None or not answers.teacher or not shown_as_pictures(inputs):
        return b""
    from PIL import Image

    shown = pictures(seen.inputs[: len(answers.teacher)], inputs, LONGEST)
    width, height = (side / _DPI for side in _size(inputs))
    lines = -(-len(answers.colours) // 4)
    top = 0.25 + 0.22 * lines
    size = (2 * width + 0.3, len(shown) * (height + 0.3) + top)
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 7, "text.parse_math": False}):
        made = Figure(figsize=size, dpi=_DPI, facecolor=PAPER)
        handles = [Patch(facecolor=colour, edgecolor=INK, linewidth=0.5, label=name) for name, colour in answers.colours.values()]
        made.legend(handles=handles, loc="upper center", ncols=4, frameon=False, borderpad=0.2, columnspacing=1, handlelength=1)
        for row, (picture, *both) in enumerate(zip(shown, answers.teacher, answers.student, strict=True)):
            for column, (who, drawing) in enumerate(zip(("teacher", "student"), both, strict=True)):
                left, bottom = 0.1 + column * (width + 0.1), size[1] - top - (row + 1) * (height + 0.3) + 0.1
                axes = made.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
                _paint(axes, picture, drawing, answers, inputs)
                axes.set_title(f"{row + 1}: {who}", fontsize=7, loc="left", pad=2, color=INK)
        file = io.BytesIO()
        FigureCanvasAgg(made).print_png(file, metadata={"Software": None})
    small = io.BytesIO()
    Image.open(file).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    return small.getvalue()


def _paint(axes: Any, picture: Any, drawing: Drawing, answers: Answers, inputs: InputSpec) -> None:
    axes.set_axis_off()
    width, height = _size(inputs)
    base = np.asarray(picture.convert("L" if drawing.areas is not None else "RGB").convert("RGB"))
    axes.imshow(base, extent=(0, width, height, 0), interpolation="nearest")
    if drawing.areas is not None:
        mask = np.asarray(_mask(drawing, answers, picture.size).convert("RGBA"))
        axes.imshow(mask, extent=(0, width, height, 0), alpha=COVER, interpolation="nearest")
    for box in drawing.boxes:
        label = _label(box, answers, inputs)
        for colour, line in ((PAPER, 2.4), (label.colour, 1.3)):
            axes.add_patch(Rectangle((label.x, label.y), label.width, label.height, fill=False, edgecolor=colour, linewidth=line))
        axes.text(label.text_x, label.text_y - 2, label.text, fontsize=5.5, color=INK,
                  bbox={"facecolor": PAPER, "edgecolor": label.colour, "linewidth": 0.6, "pad": 0.8})  # fmt: skip
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _side(who: str, drawing: Drawing, answers: Answers, inputs: InputSpec, size: tuple[int, int]) -> Side:
    mask = ""
    if drawing.areas is not None:
        picture = _mask(drawing, answers, size)
        mask = data(picture, transparency=picture.info["transparency"], optimize=True)
    return Side(who, drawing.said, mask, [_label(box, answers, inputs) for box in drawing.boxes])


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


def _label(box: Box, answers: Answers, inputs: InputSpec) -> Label:
    """A box with its text above it, or inside where there is no room."""
    size = _size(inputs)
    scale = (size[0] / inputs.shape[2], size[1] / inputs.shape[1])
    left, top, right, bottom = (corner * scale[i % 2] for i, corner in enumerate(box.corners))
    name, colour = answers.colours[box.label]
    text = f"{name} {100 * box.score:.0f} %"
    x = max(0.0, min(left, size[0] - _WIDE * _LETTER * len(text)))
    y = top - 3 if top > _LETTER + 3 else min(top + _LETTER, size[1] - 2.0)
    found = (left, top, right - left, bottom - top)
    return Label(*(round(value, 1) for value in found), colour, text, round(x, 1), round(y, 1))
