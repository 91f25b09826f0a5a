"""Where a saved student is: in a folder, or on the Hub, from where the plugin ``hub`` fetches it."""

from __future__ import annotations

import re
from pathlib import Path

from zsq.errors import FileError, ZsqError

_HUB = "hub:"
_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@\S+)?")


def locate(place: Path | str, revision: str | None = None, *, exported: bool = False) -> Path:
    """The folder of the student ``place``.

    Args:
        place: A folder; or ``hub:ORG/NAME[@REVISION]``; or, where no such folder exists, the text ``ORG/NAME[@REVISION]``.
        revision: Branch, tag or commit, of a student on the Hub.
        exported: Whether the files of exporters are wanted as well, where they were published.

    Raises:
        FileError: When a revision is asked of a folder, or the text is neither a folder nor a student on the Hub.
        ZsqError: When the plugin ``hub`` is not installed, or cannot fetch it.
    """
    text = str(place)
    if text.startswith(_HUB):
        return _fetch(text, revision, exported)
    if isinstance(place, Path) or Path(text).exists() or not _ID.fullmatch(text):
        if revision is not None:
            raise FileError(f"'{text}' is a folder, which has no revision '{revision}'", "", "a student on the Hub: hub:ORG/NAME")
        return Path(place)
    try:
        return _fetch(text, revision, exported)
    except ZsqError as error:
        raise FileError(f"there is no folder '{text}', and: {error.what}", error.where, error.hint) from error


def _fetch(place: str, revision: str | None, exported: bool) -> Path:
    from zsq._component import Role
    from zsq._manager import Manager

    folder: Path = Manager.discover().get(Role.TEACHER, "hub").component.implementation().fetch(place, revision, exported=exported)
    return folder
