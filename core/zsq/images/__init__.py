"""Images for synthesizers and reports: pools of optimised images, conversion to and from uint8, galleries."""

from __future__ import annotations

from zsq.images._descent import Descent, Plateau, Spectrum
from zsq.images._gallery import distinct, gallery, read_gallery
from zsq.images._pixels import from_uint8, patterns, to_uint8
from zsq.images._pool import Made, Maker, PoolSynth, deal_classes

__all__ = [
    "Descent",
    "Made",
    "Maker",
    "Plateau",
    "PoolSynth",
    "Spectrum",
    "deal_classes",
    "distinct",
    "from_uint8",
    "gallery",
    "patterns",
    "read_gallery",
    "to_uint8",
]
