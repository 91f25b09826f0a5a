"""Errors with what is wrong, where, and the next step. The command line prints them in at most three lines, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

__all__ = ["ComponentError", "FileError", "OptionError", "PlanError", "ZsqError", "first_line", "library", "nearest"]


class ZsqError(Exception):
    """An error that the user can fix.

    Args:
        what: One sentence that says what is wrong.
        where: The file, option, component or plugin.
        hint: The next step: the nearest match, a command, an option.
    """

    #: The exit code of the command.
    code = 2

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.where and f"in {self.where}", self.hint) if line)


class OptionError(ZsqError):
    """An option that does not exist, has the wrong type or is out of bounds."""


class ComponentError(ZsqError):
    """A component that cannot be found, is ambiguous, or belongs to a broken plugin."""


class PlanError(ZsqError):
    """A chain that cannot run; the message names the missing need."""


class FileError(ZsqError):
    """A file that is missing, damaged, of the wrong kind, or not trusted."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the closest known name, or an empty string."""
    match = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean '{match[0]}'?" if match else ""


def first_line(error: BaseException, most: int = 160) -> str:
    """The first line of an error's text; its type if it has no text."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)[:most]


def library(name: str, extra: str, where: str) -> ModuleType:
    """Import the module ``name``, or say what to install.

    Args:
        name: The module.
        extra: What installs it, as ``pip install`` takes it, e.g. ``zsq-lab[lab]``.
        where: The component that needs it.

    Raises:
        ComponentError: If it is not installed, or its import fails.
    """
    try:
        return import_module(name)
    except Exception as error:  # a broken installation can raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            raise ComponentError(f"the library '{error.name}' is not installed", where, f"pip install '{extra}'") from None
        what = f"the library '{name}' cannot be imported: {first_line(error)}"
        raise ComponentError(what, where, f"install a matching version: pip install -U '{extra}'") from error
