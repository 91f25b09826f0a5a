"""Where saved students are: in a folder, or in a store, from which a plugin fetches them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from zsq._component import Role
from zsq._run.lookup import plain_context
from zsq.errors import FileError, ZsqError

if TYPE_CHECKING:
    from zsq._manager import Manager
    from zsq.protocols import Store

#: The store of a place that names none.
DEFAULT_STORE = "hub"
_NAMED = re.compile(r"(?P<store>(?:[\w.-]+/)?[A-Za-z][\w-]+):(?P<rest>.*)", re.DOTALL)  # two letters at least: C: is a disk
_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@\S+)?")


def locate(place: Path | str, revision: str | None = None, *, exported: bool = False, manager: Manager | None = None) -> Path:
    """The folder of a saved student.

    Args:
        place: A folder; or ``STORE:REST``, such as ``hub:ORG/NAME[@REVISION]``; or, if no such folder exists, ``ORG/NAME[@REVISION]`` on
            the Hub.
        revision: Branch, tag or commit, of a student in a store.
        exported: Fetch the exported files as well.
        manager: The plugins to search; all installed ones if None.

    Raises:
        FileError: If a folder comes with a revision, or ``place`` is neither a folder nor a student in a store.
        ZsqError: If the plugin of the store is not installed, or cannot fetch the student.
    """
    text = str(place)
    explicit = text.startswith(f"{DEFAULT_STORE}:")
    if not explicit and (Path(text).exists() or not (in_store(text) or (isinstance(place, str) and _ID.fullmatch(text)))):
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


def in_store(text: str) -> bool:
    """Whether a text has the form ``STORE:REST``."""
    return _NAMED.fullmatch(text) is not None


def store(place: str, manager: Manager | None = None) -> tuple[Store, str]:
    """The store of ``STORE:REST``, by default the Hub, and the rest.

    Raises:
        ComponentError: If no installed plugin has it.
    """
    match = _NAMED.fullmatch(place)
    name, rest = (match["store"], match["rest"]) if match else (DEFAULT_STORE, place)
    found: Store = plain_context(manager).find(Role.STORE, name)
    return found, rest
