"""Images: optimised with Adam, kept in pools, as pixels and as inputs, shown in galleries, measured for diversity."""

from __future__ import annotations

from zsq.images._descent import Descent, Plateau, Spectrum
from zsq.images._diversity import diversity
from zsq.images._gallery import distinct, gallery
from zsq.images._npz import read_npz, write_npz
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
    "diversity",
    "from_uint8",
    "gallery",
    "patterns",
    "read_npz",
    "to_uint8",
    "write_npz",
]
