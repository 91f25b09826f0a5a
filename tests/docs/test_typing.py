"""Types are checked in every package of the repository, strictly and without exceptions, and come with the wheels."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
PACKAGES = sorted({ROOT / "core" / "zsq", ROOT / "zsq_cli", *(path.parent for path in ROOT.glob("plugins/*/zsq_*/__init__.py"))})
MYPY: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]


def test_mypy_finds_every_plugin() -> None:
    assert MYPY["mypy_path"] == ["core", *(f"plugins/{folder.name}" for folder in PLUGINS)]


def test_mypy_checks_every_package() -> None:
    checked = {path for pattern in MYPY["files"] for path in ROOT.glob(pattern)}
    assert checked == set(PACKAGES)
    assert {path.parent for path in PACKAGES} >= set(PLUGINS)


def test_mypy_is_strict_everywhere() -> None:
    assert MYPY["strict"]
    (only,) = MYPY["overrides"]
    assert only.keys() == {"module", "ignore_missing_imports"}
    assert not any(module.startswith("zsq") for module in only["module"])


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_errors_are_ignored_by_their_code_only(package: Path) -> None:
    for file in package.rglob("*.py"):
        lines = file.read_text(encoding="utf-8").splitlines()
        bare = [n for n, line in enumerate(lines, 1) if re.search(r"#\s*(type:\s*ignore(?!\[[a-z-]+(,[a-z-]+)*\])|mypy:)", line)]
        assert not bare, f"{file}: lines {bare}"


@pytest.mark.parametrize("project", [ROOT, *PLUGINS], ids=lambda path: path.name)
def test_wheels_say_that_they_are_typed(project: Path) -> None:
    inside = {file.distribution_path for file in WheelBuilder(str(project)).recurse_included_files()}
    packages = ("zsq", "zsq_cli") if project == ROOT else [path.name for path in PACKAGES if path.parent == project]
    assert {f"{package}/py.typed" for package in packages} <= inside
