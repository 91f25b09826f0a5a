"""Repositories on the Hub, for readers, and the library that a repository belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard
from torch import Tensor

from zsq.errors import FileError
from zsq.teachers import read_weights
from zsq_hub.fetch import download

if TYPE_CHECKING:
    from typing import Self

_CONFIG, _WEIGHTS, _PICKLE, _CARD = "config.json", "model.safetensors", "pytorch_model.bin", "README.md"


@dataclass(frozen=True)
class Repository:
    """One commit of a repository.

    Args:
        name: ``ORG/NAME``.
        commit: Its hash.
        config: What ``config.json`` says.
        source: The teacher source that it is read for, to begin references with.
    """

    name: str
    commit: str
    config: Mapping[str, Any]
    source: str = "hub"

    @classmethod
    def open(cls, place: str, source: str = "hub") -> Self:
        """The commit that ``ORG/NAME[@REVISION]`` means now; only ``config.json`` is downloaded.

        Raises:
            HubError: If it is not there or not for you, or the way to the Hub fails.
            FileError: If it holds no readable configuration.
        """
        name, folder = download(place, (_CONFIG,))
        where = f"{source}:{name}@{folder.name}"
        try:
            config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileError(f"'{name}' has no {_CONFIG}, so nobody knows what network it is", where, "networks of yours: py:…") from None
        except (OSError, ValueError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise FileError(f"{_CONFIG} is not a JSON object", where, "the repository is damaged; name another --revision or repository")
        return cls(name, folder.name, config, source)

    @property
    def ref(self) -> str:
        """The reference that always names these files."""
        return f"{self.source}:{self.name}@{self.commit}"

    def folder(self, *patterns: str) -> Path:
        """The folder with the files that match, downloaded if necessary."""
        return download(f"{self.name}@{self.commit}", (_CONFIG, *patterns))[1]

    def license(self) -> str:
        """The licence that the model card names; empty if it names none that can be read."""
        try:
            card = ModelCard((self.folder(_CARD) / _CARD).read_text(encoding="utf-8"), ignore_metadata_errors=True)
        except (OSError, ValueError):
            return ""
        found = card.data.get("license")
        return found if isinstance(found, str) else ""

    def weights(self, trust_code: bool) -> dict[str, Tensor]:
        """The tensors in ``model.safetensors``; those in ``pytorch_model.bin`` only where there is nothing else and code is trusted.

        Raises:
            FileError: If there are none, or they are damaged.
        """
        file = self.folder(_WEIGHTS) / _WEIGHTS
        if not file.is_file() and trust_code:
            file = self.folder(_PICKLE) / _PICKLE
        if not file.is_file():
            hint = "" if trust_code else f"if you trust whoever wrote it, --trust-code reads {_PICKLE}"
            raise FileError(f"'{self.name}' has no {_WEIGHTS}", self.ref, hint or "name another repository or revision")
        return read_weights(file, trust_code)


def library_of(config: Mapping[str, Any]) -> str:
    """The library whose network ``config.json`` describes: as it says itself, else by what only that library writes; or nothing."""
    if isinstance(named := config.get("library_name"), str):
        return named
    if "sha256" in config and "format" in config:
        return "zsq"
    if isinstance(config.get("architecture"), str):
        return "timm"
    return "transformers" if isinstance(config.get("model_type"), str) or isinstance(config.get("architectures"), list) else ""
