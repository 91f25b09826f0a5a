"""Recipes that come with plugins: each composes, each is found by name, and each is in its plugin's wheel."""

from __future__ import annotations

import json
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zsq._api.recipes import find_recipe, named_recipes
from zsq._compose import compose
from zsq._manager import Manager
from zsq._recipe import read_recipe

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("plugins/*/recipes/*.yaml"))
FOLDERS = sorted({path.parents[1] for path in FILES})


def name_of(path: Path) -> str:
    return f"{path.parents[1].name}/{path.stem}"


@pytest.fixture(scope="module")
def manager() -> Manager:
    return Manager.discover()


def test_every_file_is_a_named_recipe(manager: Manager) -> None:
    found = {recipe.name: recipe for recipe in named_recipes(manager)}
    assert [name_of(path) for path in FILES if name_of(path) not in found] == []
    assert len(FILES) > 15 and all(recipe.summary for recipe in found.values())
    assert {"qimera/cifar10-w4a4", "qimera/cifar10-w4a4-short", "squant/w3a3-clips", "dfq/w8a8-per-tensor"} <= found.keys()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_it_composes_with_some_teacher(path: Path, manager: Manager) -> None:
    recipe = read_recipe(find_recipe(name_of(path), manager))
    assert path.read_text().startswith("# "), "the first line says what it is"
    plan = compose(recipe if recipe.teacher else replace(recipe, teacher={"ref": "zoo:resnet20-cifar10"}), manager)
    assert plan.notes == ()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_name_of_the_folder_is_that_of_the_plugin(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert folder.name in project["project"]["entry-points"]["zsq.v1"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_wheel_brings_its_recipes(folder: Path, tmp_path: Path) -> None:
    names = zipfile.ZipFile(wheel(folder, tmp_path)).namelist()
    package = next(name.split("/")[0] for name in names if name.endswith("/__init__.py"))
    assert {f"{package}/recipes/{path.name}" for path in (folder / "recipes").glob("*.yaml")} <= set(names)


def test_an_installed_wheel_is_where_its_recipes_are_read_from(tmp_path: Path, zsq_process: Callable[..., Any]) -> None:
    """What lies beside the package in a folder of packages is somebody else's."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel(ROOT / "plugins" / "qimera", tmp_path)).extractall(site)
    (site / "recipes").mkdir()
    (site / "recipes" / "other.yaml").write_text("# Somebody else's.\n")
    done = zsq_process("recipes", "qimera", "--json", path=site)
    rows = json.loads(done.out)
    assert {row["name"] for row in rows} == {name_of(path) for path in FILES if path.parents[1].name == "qimera"}
    assert all(row["file"].startswith(str(site / "zsq_qimera")) for row in rows)


def wheel(folder: Path, into: Path) -> str:
    from hatchling.builders.wheel import WheelBuilder

    return next(WheelBuilder(str(folder)).build(directory=str(into), versions=["standard"]))


# -- the command line -------------------------------------------------------------------------------------------------


def test_a_name_is_as_good_as_its_file(zsq: Callable[..., Any]) -> None:
    named = zsq("plan", "--recipe", "qimera/cifar10-w4a4-short", "--json")
    path = ROOT / "plugins" / "qimera" / "recipes" / "cifar10-w4a4-short.yaml"
    assert named.code == 0 and named.out == zsq("plan", "--recipe", path, "--json").out


def test_a_file_of_that_path_comes_first(zsq: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "qimera").mkdir()
    (tmp_path / "qimera" / "cifar10-w4a4").write_text("synth: noise\n")
    assert json.loads(zsq("plan", "--recipe", "qimera/cifar10-w4a4", "--json").out)["recipe"]["synth"]["name"] == "noise"


def test_recipes_are_listed_with_what_they_are(zsq: Callable[..., Any]) -> None:
    done = zsq("recipes", "qimera")
    assert done.code == 0 and "qimera/demo" in done.out and "two CPU cores" in done.out and "gdfq/" not in done.out
    assert {row["name"].split("/")[0] for row in json.loads(zsq("recipes", "--json").out)} >= {"gdfq", "qimera", "zeroq"}
    assert json.loads(zsq("recipes", "--json", "--no-plugins").out) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("plan", "--recipe", "qimera/cifar10-w4a5"), ("recipe 'qimera/cifar10-w4a5' not found", "did you mean 'qimera/cifar10-w4a4'?")),
        (("plan", "--recipe", "qimera/nothing"), ("there are: ", "qimera/cifar10-w3a3-short")),
        (("plan", "--recipe", "qimra/cifar10-w4a4"), ("plugin 'qimra'", "did you mean 'qimera'?", "plugins with recipes: ")),
        (("plan", "--recipe", "zoo/cifar10-w4a4"), ("plugin 'zoo' has no recipes",)),
        (("recipes", "qimra"), ("did you mean 'qimera'?",)),
        (("plan", "--no-plugins", "--recipe", "qimera/cifar10-w4a4"), ("third-party plugins are switched off",)),
        (("plan", "--recipe", "qimera/none.yaml"), ("cannot read the recipe",)),
        (("plan", "--recipe", "../secret"), ("cannot read the recipe",)),
    ],
)
def test_a_name_that_is_wrong(words: tuple[str, ...], expected: tuple[str, ...], zsq: Callable[..., Any]) -> None:
    done = zsq(*words)
    assert done.code == 2 and all(part in done.err for part in expected) and len(done.err.splitlines()) <= 3, done.err
