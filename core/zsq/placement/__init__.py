"""Where points go in a graph: the quantizer on uniform grids, which others build on, and what makes its student compute in integers."""

from __future__ import annotations

from zsq.placement._biases import ROOMY, without_identities
from zsq.placement._integers import use_integers
from zsq.placement._quantizer import Uniform

__all__ = ["ROOMY", "Uniform", "use_integers", "without_identities"]
