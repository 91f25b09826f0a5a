"""What several tests of the saved format need."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def reader() -> Callable[[Path], tuple[Any, Any, Any]]:
    """The reader that docs/format.md prints: numpy and safetensors, nothing of zsq."""
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "zsq" not in code and "torch" not in code
    space: dict[str, Any] = {}
    exec(compile(code, "docs/format.md", "exec"), space)
    read: Callable[[Path], tuple[Any, Any, Any]] = space["read"]
    return read
