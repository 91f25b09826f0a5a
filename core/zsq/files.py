"""Files: written so that nothing half-written is left where a good file was, paths that stay inside their folder, the cache. Light."""

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


class Cache:
    """Tensors that later runs use again: one safetensors file per key, and the key is everything that they depend on.

    ``folder/kind/KEY.safetensors``; every file also holds its key in full, and a file whose key differs is not used.

    Args:
        folder: Usually ``ctx.cache``; None keeps nothing and finds nothing.
        kind: What is kept there: ``pools``, ``sensitivities``.
    """

    def __init__(self, folder: Path | None, kind: str) -> None:
        self.folder = folder / kind if folder is not None else None

    def path(self, key: Mapping[str, Any]) -> Path | None:
        """Where the tensors of a key are, whether or not they exist."""
        if self.folder is None:
            return None
        return self.folder / f"{hashlib.sha256(_text(key).encode()).hexdigest()[:32]}.safetensors"

    def load(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The tensors of a key; None where there are none, or where the file is damaged or another key's."""
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
        """Keep the tensors of a key. A file system that refuses is no reason to fail: they are made again next time."""
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
