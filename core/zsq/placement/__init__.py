"""Inserts quantization points into a graph, and lets a frozen student compute in integers.

``Uniform`` is the base of quantizers on uniform grids."""

from __future__ import annotations

from zsq.placement._biases import ROOMY, without_identities
from zsq.placement._integers import use_integers
from zsq.placement._quantizer import Uniform

__all__ = ["ROOMY", "Uniform", "use_integers", "without_identities"]
