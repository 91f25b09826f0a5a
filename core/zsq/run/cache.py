"""Tensors that later runs use again: one safetensors file per key, and the key is everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zsq.errors import FileError
from zsq.files import write_atomic


class Cache:
    """``folder/kind/KEY.safetensors``; every file also holds its key in full, and a file whose key differs is not used.

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
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, lambda beside: save_file(plain, beside, {"key": _text(key)}))
        except (OSError, FileError):
            return


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True, default=str)
