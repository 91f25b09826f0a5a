"""registry.yaml says what is there: every folder in plugins/, what its hooks yield, and no figure without a recipe."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from zsq._component import API_VERSION, GROUP, Role
from zsq._manager import Manager

ROOT = Path(__file__).resolve().parent.parent
REGISTRY: dict[str, Any] = yaml.safe_load((ROOT / "registry.yaml").read_text())
PLUGINS: dict[str, dict[str, Any]] = REGISTRY["plugins"]
REQUIRED = {"package", "api", "provides", "tasks", "summary", "license", "status"}
OPTIONAL = {"path", "source", "paper", "verified"}


def _project(entry: dict[str, Any]) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / entry["path"] / "pyproject.toml").read_text())["project"]
    return project


def test_schema() -> None:
    assert REGISTRY.keys() == {"schema", "plugins"} and REGISTRY["schema"] == 1


def test_every_folder_in_plugins_is_listed() -> None:
    folders = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("plugins/*/pyproject.toml")}
    assert folders == {entry["path"] for entry in PLUGINS.values() if "path" in entry}


@pytest.mark.parametrize("name", PLUGINS)
def test_entry_is_well_formed(name: str) -> None:
    entry = PLUGINS[name]
    assert entry.keys() >= REQUIRED and entry.keys() <= REQUIRED | OPTIONAL
    assert ("path" in entry) != ("source" in entry), "either path (in this repository) or source (elsewhere)"
    assert re.fullmatch(r"zsq-[a-z0-9-]+", entry["package"])
    assert entry["api"] == API_VERSION
    assert entry["provides"].keys() <= {role.plural for role in Role}
    assert entry["status"] in ("verified", "community", "stale")
    assert entry["summary"].endswith(".")


@pytest.mark.parametrize("name", PLUGINS)
def test_verified_has_a_recipe_and_a_measured_value(name: str) -> None:
    entry = PLUGINS[name]
    assert (entry["status"] == "verified") == ("verified" in entry)
    if measured := entry.get("verified"):
        assert measured.keys() >= {"zsq", "date", "recipe", "metric", "value"}
        assert (ROOT / measured["recipe"]).is_file()
        assert isinstance(measured["value"], (int, float))


def test_names_are_unique_per_role() -> None:
    rows = [(role, item) for entry in PLUGINS.values() for role, items in entry["provides"].items() for item in items]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("name", [name for name, entry in PLUGINS.items() if "path" in entry])
def test_entry_matches_the_plugin(name: str) -> None:
    entry = PLUGINS[name]
    project = _project(entry)
    assert project["name"] == entry["package"]
    assert name in project["entry-points"][GROUP]
    assert project["license"] == entry["license"]
    yielded: dict[str, list[str]] = {}
    for found in Manager.discover(only=[name]).components():
        if found.provider.split()[0] == entry["package"] and found.preset is None:
            yielded.setdefault(found.role.plural, []).append(found.component.name)
    assert yielded == entry["provides"]
