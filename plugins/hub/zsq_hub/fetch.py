"""Downloads the files of a student into the client's cache: only safetensors and text, no file with code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, but not marked as exported

from zsq.errors import FileError
from zsq_hub.errors import explained

#: The files of a student; no other file of a repository is downloaded.
FILES = ("config.json", "model.safetensors", "report.json", "recipe.yaml")
#: The files of exporters, and synthetic images: they are fetched only if they are asked for.
EXPORTED = ("model.onnx", "model.onnx.data", "model.xml", "model.bin")
IMAGES = ("images.npz", "images.png")
_REFERENCE = re.compile(r"(?P<repo>[^@\s]+)(?:@(?P<revision>\S+))?")


def split(place: str) -> tuple[str, str | None]:
    """Repository and revision of ``ORG/NAME`` or ``ORG/NAME@REVISION``.

    Raises:
        FileError: If it is none of them.
    """
    match = _REFERENCE.fullmatch(place)
    if match is None or match["repo"].count("/") != 1:
        raise FileError(f"'{place}' names no repository", "", "write hub:ORG/NAME or hub:ORG/NAME@REVISION")
    with explained(match["repo"], "load"):
        validate_repo_id(match["repo"])
    return match["repo"], match["revision"]


def fetch(place: str, revision: str | None = None, *, exported: bool = False) -> Path:
    """The folder of the student ``place``, its name the hash of its commit; what the cache holds is not downloaded again.

    Args:
        place: As :func:`split` reads it.
        revision: Branch, tag or commit; wins over one in ``place``. Without any, the newest commit of ``main``.
        exported: Whether the files of exporters are fetched as well, with the images that they can be verified on.

    Raises:
        HubError: If it is not there or not for you, or the way to the Hub fails.
        FileError: If what is there is no zsq student.
    """
    repo, folder = download(place, (*FILES, *EXPORTED, *IMAGES) if exported else FILES, revision)
    if missing := [name for name in FILES[:2] if not (folder / name).is_file()]:
        raise FileError(
            f"'{repo}' is no zsq student: it has no {missing[0]}", f"hub:{repo}@{folder.name}", "networks of others: zsq run py:…"
        )
    return folder


def download(place: str, names: Sequence[str], revision: str | None = None) -> tuple[str, Path]:
    """Repository and folder of those of its files that ``names`` (patterns) match; the folder is called as the commit.

    Args:
        place: As :func:`split` reads it.
        names: What to download; nothing else is.
        revision: Wins over one in ``place``.

    Raises:
        HubError: If it is not there or not for you, or the way to the Hub fails.
    """
    repo, named = split(place)
    with explained(repo, "load"):
        return repo, Path(snapshot_download(repo, revision=revision or named, allow_patterns=list(names), library_name="zsq"))
