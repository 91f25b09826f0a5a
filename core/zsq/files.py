"""Safe file access: atomic writes, paths that stay inside their folder, the cache. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq.errors import FileError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Cache", "cache_folder", "inside", "scratch_folder", "write_atomic"]


def write_atomic(path: Path, content: bytes | str | Callable[[Path], None]) -> Path:
    """Write a file atomically: beside its path, then fsync, then rename.

    Args:
        path: The finished file.
        content: Bytes or text, or a function that writes to the path it gets.

    Raises:
        FileError: If the file system refuses (full disk, no permission); ``path`` is then unchanged.
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
    """``folder / name``; raises ``FileError`` if it is outside ``folder``."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise FileError(f"'{name}' points outside its folder", str(folder), "the file that names it is damaged or not to be trusted")
    return path


def cache_folder() -> Path:
    """The cache for later runs: ``$ZSQ_CACHE``, else ``zsq`` in the user's cache folder (``$XDG_CACHE_HOME``)."""
    if own := os.environ.get("ZSQ_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zsq"


def scratch_folder(beside: Path) -> Path:
    """A new hidden folder next to ``beside``, ``.NAME.zsq-…``, on the same file system, so that it can be renamed."""
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{beside.name}.zsq-", dir=beside.parent))
    except OSError as error:
        raise FileError(f"cannot create a folder: {error.strerror or error}", str(beside.parent), "choose another --out") from error


class Cache:
    """A cache of tensors for later runs: one file ``folder/kind/HASH.safetensors`` per key. The key is everything that they depend on.

    Each file contains its full key, and is used only for this key.

    Args:
        folder: Usually ``ctx.cache``; None keeps nothing and finds nothing.
        kind: For example ``pools`` or ``sensitivities``.
    """

    def __init__(self, folder: Path | None, kind: str) -> None:
        self.folder = folder / kind if folder is not None else None

    def path(self, key: Mapping[str, Any]) -> Path | None:
        """The file of a key, whether or not it exists."""
        if self.folder is None:
            return None
        return self.folder / f"{hashlib.sha256(_text(key).encode()).hexdigest()[:32]}.safetensors"

    def load(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The tensors of a key; None if there are none, or if the file is damaged or has another key."""
        path = self.path(key)
        if path is None or not path.is_file():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("key") != _text(key):
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError):
            return None

    def save(self, key: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of a key. If the file system refuses, nothing is kept and nothing is raised."""
        path = self.path(key)
        if path is None:
            return
        from safetensors.torch import save_file

        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, lambda beside: save_file(plain, beside, {"key": _text(key)}))
        except (OSError, FileError):
            return


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True, default=str)
