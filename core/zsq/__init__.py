"""zsq: zero-shot quantization. A trained network and no data in, a small integer network out.

For a network in memory: ``zsq.quantize(network, bits=8, ...)`` gives a :class:`Result`; ``zsq.load(folder)`` gives a saved student back.
For plugin authors: :class:`Component`, :class:`Options`, :func:`opt` and ``hookimpl``, and the modules that docs/api.md lists.

This module is light: it imports neither torch, pluggy nor yaml; what needs them is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsq._component import Component
from zsq._version import __version__ as __version__
from zsq.errors import ZsqError
from zsq.options import Options, opt
from zsq.types import InputSpec

if TYPE_CHECKING:
    from zsq._api.quantize import quantize as quantize
    from zsq._api.result import Result as Result
    from zsq._api.saved import SavedRun as SavedRun
    from zsq._api.saved import load as load
    from zsq._hookspecs import hookimpl as hookimpl
    from zsq._recipe import Recipe as Recipe

__all__ = ["Component", "InputSpec", "Options", "Recipe", "Result", "SavedRun", "ZsqError", "hookimpl", "load", "opt", "quantize"]

_LAZY = {
    "Recipe": "zsq._recipe",
    "Result": "zsq._api.result",
    "SavedRun": "zsq._api.saved",
    "hookimpl": "zsq._hookspecs",
    "load": "zsq._api.saved",
    "quantize": "zsq._api.quantize",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'zsq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
