"""Writing so that nothing half-written is ever left where a good file was, and paths that stay inside their folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from zsq.errors import FileError


def write_atomic(path: Path, content: bytes | str | Callable[[Path], None]) -> Path:
    """Write beside, fsync, rename.

    Args:
        path: Where the finished file will stand.
        content: The bytes or text, or a function that writes the file it is given.

    Raises:
        FileError: When the file system refuses (full disk, no permission); ``path`` is then as it was before.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if callable(content):
            content(beside)
        else:
            beside.write_bytes(content.encode() if isinstance(content, str) else content)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise FileError(
            f"cannot write {path.name}: {error.strerror or error}", str(path.parent), "free some space or choose another --out"
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def inside(folder: Path, name: str) -> Path:
    """``folder / name``, refused when it would leave ``folder``."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise FileError(f"'{name}' points outside its folder", str(folder), "the file that names it is damaged or not to be trusted")
    return path


def cache_folder() -> Path:
    """Where things are kept for later runs: ``$ZSQ_CACHE``, else ``zsq`` in the user's cache folder (``$XDG_CACHE_HOME``)."""
    if own := os.environ.get("ZSQ_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zsq"


def scratch_folder(beside: Path) -> Path:
    """A new hidden folder next to ``beside``, ``.NAME.zsq-…``, on the same file system, to be renamed into place."""
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{beside.name}.zsq-", dir=beside.parent))
    except OSError as error:
        raise FileError(f"cannot create a folder: {error.strerror or error}", str(beside.parent), "choose another --out") from error
