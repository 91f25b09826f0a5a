"""Libraries that not every installation has: imported where they are used, with a message that says how to get them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from zsq.errors import ComponentError, first_line


def library(name: str, extra: str, where: str) -> ModuleType:
    """The module ``name``.

    Args:
        name: What to import.
        extra: What brings it, as ``pip install`` takes it, e.g. ``zsq-lab[lab]``.
        where: What needs it, for messages.

    Raises:
        ComponentError: When it is not installed, or does not import.
    """
    try:
        return import_module(name)
    except Exception as error:  # a broken installation raises whatever it likes
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            raise ComponentError(f"the library '{error.name}' is not installed", where, f"pip install '{extra}'") from None
        what = f"the library '{name}' cannot be imported: {first_line(error)}"
        raise ComponentError(what, where, f"install one that fits the others: pip install -U '{extra}'") from error
