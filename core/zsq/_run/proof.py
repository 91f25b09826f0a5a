"""Whether the exported files of a run compute what was evaluated: kept beside them, with what the files were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsq.errors import ZsqError
from zsq.files import inside, write_atomic

#: The outcome of `zsq verify`, beside the exported files.
FILE = "verify.json"


def keep(run: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """Write down what an exporter's ``verify`` found, and give back what was written.

    Args:
        run: Folder of the run.
        found: What was found; ``files`` names the exported files.

    Returns:
        The same, with the SHA-256 of every file by its name in ``files``.
    """
    result = {**found, "files": {name: _digest(run, name) for name in found["files"]}}
    write_atomic(run / FILE, json.dumps(result, indent=1) + "\n")
    return result


def proven(run: Path) -> dict[str, Any] | None:
    """What was found of the exported files that lie in ``run`` now; None where nothing was, or where one of them is another file since."""
    try:
        found = json.loads((run / FILE).read_text(encoding="utf-8"))
        files = dict(found["files"])
        same = bool(files) and all(_digest(run, name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ZsqError):
        return None
    return found if same else None


def _digest(run: Path, name: str) -> str:
    return hashlib.sha256(inside(run, name).read_bytes()).hexdigest()
