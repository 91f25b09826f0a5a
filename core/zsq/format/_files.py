"""Reads and checks the files of a saved student before anything is built from them (docs/format.md)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsq.errors import FileError

#: Names of the two files of a student.
CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: Version of the format of both files; a reader accepts no other.
FORMAT = 3
#: How ``config.json`` begins; 64 digits follow, the SHA-256 of every byte after them.
_HEAD = b'{"checksum":"'
_KEYS = {"checksum", "format", "sha256", "scheme", "integers", "inputs", "modules", "tensors", "graph", "manifest"}
#: Largest size of a configuration in bytes; a network of a thousand operations takes 0.2 MB.
_MAX_BYTES = 2**25
#: The hint for a damaged file.
AGAIN = "it is damaged: copy the run again"


def text_of(config: Mapping[str, Any]) -> bytes:
    """The content of ``config.json`` with a new checksum. The same configuration gives the same bytes."""
    values = {key: value for key, value in config.items() if key != "checksum"}
    rest = b'",' + json.dumps(values, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()[1:] + b"\n"
    return _HEAD + hashlib.sha256(rest).hexdigest().encode() + rest


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration, with the type of every part checked."""
    content = read(folder, CONFIG)
    try:
        config = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
        version = config["format"]
        if type(version) is not int:
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FileError(f"{CONFIG} is not the configuration of a saved student", str(folder), AGAIN) from None
    if version != FORMAT:
        hint = "update with `pip install -U zsq`" if version > FORMAT else "make it again with `zsq run`"
        raise FileError(f"saved in format {str(version)[:20]}, but this zsq reads format {FORMAT}", str(folder), hint)
    start = len(_HEAD)
    if content[:start] != _HEAD or hashlib.sha256(content[start + 64 :]).hexdigest().encode() != content[start : start + 64]:
        raise FileError(f"{CONFIG} has changed since it was written", str(folder), AGAIN)
    if config.keys() != _KEYS or not _plain(config):
        raise FileError(f"{CONFIG} does not describe a network: a part is missing or has the wrong type", str(folder), AGAIN)
    return dict(config)


def _plain(config: Mapping[str, Any]) -> bool:
    """Whether the parts that describe no network have the right type."""
    kinds = {"sha256": str, "scheme": str, "integers": bool, "modules": dict, "tensors": dict, "manifest": dict}
    if not all(isinstance(config[key], kind) for key, kind in kinds.items()):
        return False
    inputs = config["inputs"]
    return inputs is None or (isinstance(inputs, dict) and inputs.keys() == {"shape", "mean", "std"} and _inputs(**inputs))


def _inputs(shape: Any, mean: Any, std: Any) -> bool:
    """Whether this is the shape of one image, and a mean and a standard deviation for each channel."""
    if not all(isinstance(v, list) for v in (shape, mean, std)) or not all(type(n) is int and 0 < n < 2**31 for n in shape):
        return False
    numbers = all(type(n) in (int, float) and math.isfinite(n) for n in (*mean, *std))
    return numbers and len(mean) == len(std) and all(n > 0 for n in std)


def read(folder: Path, name: str) -> bytes:
    """A file's content.

    Raises:
        FileError: If it is no plain file, leads out of the folder, or is longer than anything a student needs.
    """
    path = folder / name
    hint = "name the folder of a finished run"
    try:
        real, home = path.resolve(strict=True), folder.resolve()
        homes = [home]
        if home.parent.name == "snapshots":  # the Hub's client keeps content under blobs: of the repository, or of all repositories
            homes += [home.parents[1] / "blobs", home.parents[2] / "blobs"]
        if not any(real.is_relative_to(place) for place in homes):
            raise FileError(f"{name} is a link to a file outside the folder", str(folder), "put the file itself there")
        if not real.is_file():
            raise FileError(f"{name} is not a file", str(folder), hint)
        if name == CONFIG and real.stat().st_size > _MAX_BYTES:
            raise FileError(f"{name} is longer than any network needs", str(folder), AGAIN)
        return real.read_bytes()
    except RuntimeError:  # links in a circle
        raise FileError(f"cannot read {name}: it is a link to itself", str(folder), hint) from None
    except MemoryError:
        raise FileError(f"cannot read {name}: it is larger than the memory of this machine", str(folder), AGAIN) from None
    except OSError as error:
        raise FileError(f"cannot read {name}: {error.strerror or error}", str(folder), hint) from error


def brief(error: Exception) -> str:
    """The first line of an error message."""
    lines = f"{error}{' is missing' * isinstance(error, KeyError)}".strip().splitlines() or [type(error).__name__]
    text = "".join(c if c.isprintable() else "?" for c in lines[0])
    return text if len(text) <= 200 else f"{text[:197]}..."


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ValueError if a key occurs twice."""
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return found
