"""zsq: zero-shot quantization from chains of plugins.

This module is the light door: it imports neither torch, pluggy nor yaml. ``hookimpl`` and
``load`` are resolved on first use; a run is started with ``zsq._run.engine.run``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsq._component import Component
from zsq.errors import ZsqError
from zsq.options import Options, opt

if TYPE_CHECKING:
    from zsq._hookspecs import hookimpl
    from zsq.format import load

__version__ = "0.1.0"
__all__ = ["Component", "Options", "ZsqError", "hookimpl", "load", "opt"]

_LAZY = {"hookimpl": "zsq._hookspecs", "load": "zsq.format._saved"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'zsq' has no attribute {name!r}")
