"""Grids of integers: from ranges to codes and back, and the points that put weights and activations on them.

A plugin that quantizes, rounds or clips builds on this. ``encode`` and ``decode`` are the definition that simulation, files and
exported networks share: the same codes everywhere, bit for bit.
"""

from __future__ import annotations

from zsq.grids._affine import (
    NARROWEST,
    FlatGrid,
    Grid,
    asymmetric,
    decode,
    encode,
    flatten,
    learned,
    on_flat_grid,
    on_grid,
    straight_through,
    symmetric,
)
from zsq.grids._points import LAYERS, ActPoint, QuantLayer, WeightPoint

__all__ = [
    "LAYERS",
    "NARROWEST",
    "ActPoint",
    "FlatGrid",
    "Grid",
    "QuantLayer",
    "WeightPoint",
    "asymmetric",
    "decode",
    "encode",
    "flatten",
    "learned",
    "on_flat_grid",
    "on_grid",
    "straight_through",
    "symmetric",
]
