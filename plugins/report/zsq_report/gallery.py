"""Synthetic images as a page shows them: one small PNG each, with what both networks make of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zsq.types import InputSpec
from zsq_report.measure import Seen

#: Images that are shown, and the longest side in pixels that they are shown at where they are larger.
SHOWN, LONGEST = 32, 96


@dataclass(frozen=True)
class Tile:
    """One image: ``source`` is the file itself; labels by both networks, confidences in percent."""

    source: str
    width: int
    height: int
    label: str
    confidence: float
    student: str
    student_confidence: float

    @property
    def agrees(self) -> bool:
        return self.label == self.student


def tiles(seen: Seen, inputs: InputSpec, names: Sequence[str]) -> list[Tile]:
    """The first images, where they can be shown."""
    if not seen.synthetic or seen.inputs is None or len(inputs.shape) != 3 or inputs.shape[0] not in (1, 3):
        return []
    if seen.teacher is None or seen.student is None:
        return []
    from PIL import Image

    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (inputs.mean, inputs.std))
    pixels = ((seen.inputs[:SHOWN].float().cpu() * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    made = []
    for image, theirs, ours in zip(pixels, seen.teacher, seen.student, strict=False):
        picture: Any = Image.fromarray(image.squeeze())
        if max(picture.size) > LONGEST:
            picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "PNG")
        source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        (sure, label), (own, answer) = ((100 * float(p.max()), names[int(p.argmax())]) for p in (theirs, ours))
        made.append(Tile(source, *picture.size, label, sure, answer, own))
    return made
