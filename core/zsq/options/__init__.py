"""Options of a component: frozen dataclasses with help and bounds, and the groups that several components have. Light."""

from __future__ import annotations

from zsq.options._options import MEANINGS, OptionRow, Options, opt, validate_class
from zsq.options._shared import DescentOptions, InputOptions, PoolOptions, UniformOptions

__all__ = ["MEANINGS", "DescentOptions", "InputOptions", "OptionRow", "Options", "PoolOptions", "UniformOptions", "opt", "validate_class"]
