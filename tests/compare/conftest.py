"""Run folders made of reports alone, as a run writes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from reports import report


@pytest.fixture
def add(tmp_path: Path) -> Callable[..., Path]:
    """``add("name", top1=...)`` writes a run folder below ``runs`` and gives its path."""

    def write(name: str, **values: Any) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(report(**values)))
        return folder

    return write
