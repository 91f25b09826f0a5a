"""Errors for people: what went wrong, where, and what to do next. The CLI prints them in at most three lines, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

__all__ = ["ComponentError", "FileError", "OptionError", "PlanError", "ZsqError", "first_line", "library", "nearest"]


class ZsqError(Exception):
    """An error that the user can mend.

    Args:
        what: One sentence: what is wrong.
        where: The file, option, component or plugin it was found in.
        hint: The next step: a nearest match, a command, an option.
    """

    #: The exit code of a command that it ends.
    code = 2

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.where and f"in {self.where}", self.hint) if line)


class OptionError(ZsqError):
    """An option that does not exist, has the wrong type or is out of bounds."""


class ComponentError(ZsqError):
    """A component that cannot be found, is ambiguous, or whose plugin is broken."""


class PlanError(ZsqError):
    """A chain that cannot run; the message names the missing need."""


class FileError(ZsqError):
    """A file that is missing, damaged, of the wrong shape, or not trusted."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the closest known name, or an empty string."""
    match = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean '{match[0]}'?" if match else ""


def first_line(error: BaseException, most: int = 160) -> str:
    """What somebody else's error says, in one line; its kind where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)[:most]


def library(name: str, extra: str, where: str) -> ModuleType:
    """The module ``name``; where it cannot be had, an error that says what to install.

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
