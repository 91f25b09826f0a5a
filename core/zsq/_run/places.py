"""Where a saved student is: in a folder, or in a store, from where a plugin fetches it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from zsq._component import Role
from zsq.errors import FileError, ZsqError

if TYPE_CHECKING:
    from zsq._manager import Manager
    from zsq.protocols import Store

#: The store that is meant where none is named.
DEFAULT = "hub"
_NAMED = re.compile(r"(?P<store>(?:[\w.-]+/)?[A-Za-z][\w-]+):(?P<rest>.*)", re.DOTALL)  # two letters at least: C: is a disk
_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@\S+)?")


def locate(place: Path | str, revision: str | None = None, *, exported: bool = False, manager: Manager | None = None) -> Path:
    """The folder of the student ``place``.

    Args:
        place: A folder; or ``STORE:REST``, such as ``hub:ORG/NAME[@REVISION]``; or, where no such folder exists, the text
            ``ORG/NAME[@REVISION]``, which means the Hub.
        revision: Branch, tag or commit, of a student in a store.
        exported: Whether the files of exporters are wanted as well, where they were published.
        manager: The plugins that may take part; all that are installed when None.

    Raises:
        FileError: When a revision is asked of a folder, or the text is neither a folder nor a student in a store.
        ZsqError: When the plugin of the store is not installed, or cannot fetch it.
    """
    text = str(place)
    explicit = text.startswith(f"{DEFAULT}:")
    if not explicit and (Path(text).exists() or not (named(text) or (isinstance(place, str) and _ID.fullmatch(text)))):
        if revision is not None:
            raise FileError(f"'{text}' is a folder, which has no revision '{revision}'", "", "a student on the Hub: hub:ORG/NAME")
        return Path(place)
    try:
        found, rest = store(text, manager)
        return found.fetch(rest, revision, exported=exported)
    except ZsqError as error:
        if explicit:
            raise
        raise FileError(f"there is no folder '{text}', and: {error.what}", error.where, error.hint) from error


def named(text: str) -> bool:
    """Whether a text is written as ``STORE:REST``."""
    return _NAMED.fullmatch(text) is not None


def store(place: str, manager: Manager | None = None) -> tuple[Store, str]:
    """The store that ``STORE:REST`` names, and what stands after it; without a name the Hub.

    Raises:
        ComponentError: When no installed plugin has it.
    """
    from zsq._run.finding import plain_context

    match = _NAMED.fullmatch(place)
    name, rest = (match["store"], match["rest"]) if match else (DEFAULT, place)
    found: Store = plain_context(manager).find(Role.STORE, name)
    return found, rest
