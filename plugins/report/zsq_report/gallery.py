"""Synthetic images for the page: one small PNG each, with the answers of both networks."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zsq.images import to_uint8
from zsq.types import InputSpec
from zsq_report.measure import SHOWN, Seen

#: The longest side in pixels that images are shown at where they are larger.
LONGEST = 96
#: Longest side of images whose colours are kept as they are.
_EXACT = 64


@dataclass(frozen=True)
class Answer:
    """The class that a network gives to an image, and its confidence in percent."""

    label: str
    sure: float


@dataclass(frozen=True)
class Tile:
    """One image: ``source`` is the file itself; answers where both networks looked at it and it has one class."""

    source: str
    width: int
    height: int
    teacher: Answer | None = None
    student: Answer | None = None

    @property
    def agrees(self) -> bool:
        return self.teacher is None or self.student is None or self.teacher.label == self.student.label


def tiles(seen: Seen, inputs: InputSpec, names: Sequence[str]) -> list[Tile]:
    """The first images, where they can be shown."""
    if not seen.synthetic or seen.shown is None or not shown_as_pictures(inputs):
        return []
    made = []
    for i, picture in enumerate(pictures(seen.shown[:SHOWN], inputs, LONGEST)):
        both = [Answer(names[int(p[i].argmax())], 100 * float(p[i].max())) if p is not None and i < len(p) else None
                for p in (seen.teacher, seen.student)]  # fmt: skip
        made.append(Tile(data(picture), *picture.size, *both))
    return made


def shown_as_pictures(inputs: InputSpec) -> bool:
    """Whether inputs have the channels of a picture."""
    return len(inputs.shape) == 3 and inputs.shape[0] in (1, 3)


def pictures(images: Tensor, inputs: InputSpec, longest: int) -> list[Any]:
    """PIL images of normalised ones (N, C, H, W), made smaller where a side is longer than ``longest`` pixels."""
    from PIL import Image

    made = []
    for pixels in to_uint8(images, inputs):
        picture: Any = Image.fromarray(pixels.squeeze())
        if max(picture.size) > longest:
            picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        large = max(picture.size) > _EXACT and picture.mode == "RGB"
        made.append(picture.quantize(256, Image.Quantize.FASTOCTREE) if large else picture)  # a third of the bytes
    return made


def data(picture: Any, **options: Any) -> str:
    """A PIL image as the address of a PNG file that lies in the address itself; ``options`` are those of saving it."""
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
