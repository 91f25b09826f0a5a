"""Images: pixels and inputs, pools that are made once and dealt out, pictures of many."""

from __future__ import annotations

from zsq.images._diversity import diversity
from zsq.images._gallery import distinct, gallery, read_gallery
from zsq.images._npz import read_npz, write_npz
from zsq.images._pixels import normalise, patterns, pixel_limits, pixels_of
from zsq.images._pool import Made, Maker, PoolSynth, deal_classes

__all__ = [
    "Made",
    "Maker",
    "PoolSynth",
    "deal_classes",
    "distinct",
    "diversity",
    "gallery",
    "normalise",
    "patterns",
    "pixel_limits",
    "pixels_of",
    "read_gallery",
    "read_npz",
    "write_npz",
]
