"""Recipes for the command line and for Python: ``PLUGIN/NAME`` to a file, flags over a recipe, differences to its pins.

``PLUGIN/NAME`` is a YAML file in the plugin's folder ``recipes``. No plugin is imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._manager import known_plugins
from zsq._recipe import CHAINS, SINGLE, Recipe, installed, parse_entry
from zsq.errors import ComponentError, FileError, nearest

if TYPE_CHECKING:
    from zsq._manager import Manager
    from zsq._plugin import Plugin


@dataclass(frozen=True)
class NamedRecipe:
    """One recipe of a plugin. ``name`` is ``PLUGIN/NAME``; ``summary`` is the comment at the top of its file."""

    name: str
    path: Path
    summary: str


def named_recipes(manager: Manager, plugin: str | None = None) -> list[NamedRecipe]:
    """Every recipe of the plugins that are not blocked, or of one plugin, by name.

    Raises:
        ComponentError: If the plugin is not installed, or is blocked.
    """
    plugins = manager.installed() if plugin is None else [_plugin(plugin, manager)]
    usable = [p for p in plugins if p.status != "blocked"]
    found = {f"{p.name}/{path.stem}": path for p in usable for path in _files(p)}
    return [NamedRecipe(name, path, _summary(path)) for name, path in sorted(found.items())]


def find_recipe(text: str, manager: Manager) -> Path:
    """The file of ``--recipe``: a path, or ``PLUGIN/NAME``. An existing path goes first.

    Raises:
        ComponentError: If the plugin is not installed, or is blocked.
        FileError: If the plugin has no such recipe.
    """
    plugin, slash, name = text.partition("/")
    if not slash or "/" in name or Path(name).suffix in (".yaml", ".yml") or plugin in (".", "..") or Path(text).exists():
        return Path(text)
    names = {recipe.name: recipe.path for recipe in named_recipes(manager, plugin)}
    if text not in names:
        there = f"there are: {', '.join(names)}" if names else f"plugin '{plugin}' has no recipes; `zsq recipes` lists all"
        raise FileError(f"recipe '{text}' not found", "--recipe", " ".join(filter(None, (nearest(text, names), there))))
    return names[text]


def _plugin(name: str, manager: Manager) -> Plugin:
    plugins = {plugin.name: plugin for plugin in manager.installed()}
    if (plugin := plugins.get(name)) is None:
        what = f"plugin '{name}' is not installed, so its recipe is not available"
        if name in known_plugins():
            raise ComponentError(what, "--recipe", f"zsq plugins install {name}")
        having = [name for name, plugin in plugins.items() if next(_files(plugin), None)]
        there = f"plugins with recipes: {', '.join(having) or 'none'}; or pass a file"
        raise ComponentError(what, "--recipe", " ".join(filter(None, (nearest(name, plugins), there))))
    if plugin.status == "blocked":
        raise ComponentError(f"the recipes of plugin '{name}' are not available: {plugin.reason}", "--recipe")
    return plugin


def _files(plugin: Plugin) -> Iterator[Path]:
    """Recipe files of a plugin: inside its package if it comes from a wheel, beside it in a checkout."""
    try:
        spec = importlib.util.find_spec(plugin.module.partition(".")[0]) if plugin.module else None
    except (ImportError, ValueError):
        spec = None
    for package in map(Path, (spec and spec.submodule_search_locations) or ()):
        folders = [package / "recipes"]
        if (package.parent / "pyproject.toml").is_file():  # otherwise the folder beside it is not its own
            folders.append(package.parent / "recipes")
        yield from sorted(next((folder for folder in folders if folder.is_dir()), folders[0]).glob("*.yaml"))


def _summary(path: Path) -> str:
    """The comment lines at the top, as one line."""
    lines = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.lstrip("# ").strip())
    except (OSError, ValueError):
        return "(cannot be read)"
    return " ".join(lines)


def apply_flags(recipe: Recipe, *, weights: str | None = None, **flags: Any) -> Recipe:
    """Apply command-line flags to a recipe; None and empty lists change nothing.

    A component that the recipe already has keeps its options; another one starts from its defaults.

    Args:
        recipe: The recipe of the file.
        weights: The teacher's option of that name.
        flags: ``teacher``, ``synth``, ``quant``, ``tune``: a name; ``calib``, ``loss``, ``eval``, ``export``, ``log``: names;
            anything else: a value of the section ``run``.
    """
    changes: dict[str, Any] = {"run": dict(recipe.run)}
    for key, value in flags.items():
        if value is None or value == [] or value == ():
            continue
        if key in CHAINS:
            before = {entry["name"]: entry for entry in getattr(recipe, key) or ()}
            entries = [parse_entry(key, item, f"--{key}") for item in ([value] if isinstance(value, str) else value)]
            changes[key] = [{**before.get(entry["name"], {}), **entry} for entry in entries]
        elif key in SINGLE or key == "teacher":
            entry, old, name = parse_entry(key, value, f"--{key}"), getattr(recipe, key) or {}, "ref" if key == "teacher" else "name"
            changes[key] = {**old, **entry} if old.get(name, entry.get(name)) == entry.get(name, old.get(name)) else entry
        else:
            changes["run"][key] = value
    if weights is not None:
        changes["teacher"] = {**(changes.get("teacher") or recipe.teacher or {}), "weights": weights}
    return replace(recipe, **changes)


def pin_warnings(recipe: Recipe) -> list[str]:
    """One line for each pin of the recipe that differs from the installed version; this is not an error."""
    lines = []
    for name, wanted in recipe.pins.items():
        if name != "teacher" and (here := installed(name)) != str(wanted):
            lines.append(f"the recipe was made with {name} {wanted}, " + (f"here is {here}" if here else "which is not installed"))
    return lines
