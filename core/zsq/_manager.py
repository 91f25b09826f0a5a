"""Finds plugins and their components by name; a broken plugin does not affect the others.

A plugin is first *discovered* (name and version, nothing imported), then *activated* (entry module imported, hooks checked, components
collected). Only ``Component.implementation`` imports the code of a component.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._component import API_VERSION, GROUP, Role
from zsq._plugin import MEMORY, Found, Plugin, hook_manager, one_line, trace
from zsq._version import __version__
from zsq.errors import ComponentError, FileError, nearest

if TYPE_CHECKING:
    from zsq.events import Event

#: Roles without a flag on the command line.
_NO_FLAG = (Role.TEACHER, Role.TASK, Role.READER, Role.STORE)
_ANY_VERSION = re.compile(r"zsq\.v\d+")
_log = logging.getLogger("zsq")


class Manager:
    """All plugins of this environment; :meth:`discover` makes it."""

    def __init__(self, builtin: Plugin, plugins: Iterable[Plugin], memory: Plugin | None = None) -> None:
        self._builtin, self._plugins, self._memory = builtin, list(plugins), memory
        self._reported: set[int] = set()

    @classmethod
    def discover(cls, *, only: Iterable[str] | None = None, third_party: bool = True, files: Iterable[Path | str] = (),
                 distributions: Iterable[metadata.Distribution] | None = None) -> Manager:  # fmt: skip
        """Read names and versions of all plugins; imports none.

        Args:
            only: Names of plugins or distributions to use; the others are blocked. Names with a minus (``-a``) are the blocked ones.
                Default: the environment variable ``ZSQ_PLUGINS=a,b``.
            third_party: False blocks all plugins except the built-ins and ``files``.
            files: Plugins in single Python files.
            distributions: Search these instead of the whole environment.

        Raises:
            FileError: If one of ``files`` does not exist.
        """
        where = "the choice of plugins"
        if only is None and (listed := os.environ.get("ZSQ_PLUGINS")) is not None:
            only, where = [word.strip() for word in listed.split(",")], "ZSQ_PLUGINS"
        named = [name.strip() for name in only or ()]
        refused = {_normal(name[1:]) for name in named if name.startswith("-")}
        wanted = {_normal(name) for name in named if not name.startswith("-")}
        allowed = None if only is None or (named and not wanted) else wanted
        plugins = sorted(
            _read(metadata.distributions() if distributions is None else distributions), key=lambda p: (p.name, p.distribution)
        )
        for plugin in plugins:
            if not third_party:
                plugin.status, plugin.reason = "blocked", "third-party plugins are switched off"
            elif allowed is not None and not allowed & {_normal(plugin.name), _normal(plugin.distribution)}:
                plugin.status, plugin.reason = "blocked", f"not named in {where}"
            elif refused & {_normal(plugin.name), _normal(plugin.distribution)}:
                plugin.status, plugin.reason = "blocked", f"left out in {where}"
        checked = hook_manager()
        builtin = Plugin("builtin", "zsq", __version__, load=lambda: import_module("zsq._builtin"))
        everyone = [*plugins, *map(_one_off, files)]
        for plugin in (builtin, *everyone):
            plugin.pluggy = checked
        return cls(builtin, everyone)

    def with_memory(self, plugin: Plugin | None) -> Manager:
        """The same plugins, and before them the components in memory."""
        return Manager(self._builtin, self._plugins, plugin)

    def plugins(self) -> list[Plugin]:
        """Every plugin except the built-ins, activated."""
        for plugin in self._plugins:
            plugin.activate()
        self._note_conflicts()
        return list(self._plugins)

    def installed(self) -> list[Plugin]:
        """Every plugin except the built-ins, without importing it."""
        return list(self._plugins)

    def components(self, role: Role | str | None = None) -> list[Found]:
        """Every component, built-ins first; several of one name if several plugins provide it."""
        everything = [found for plugin in self._active() for found in plugin.components]
        return [found for found in everything if role is None or found.role == role]

    def get(self, role: Role | str, name: str) -> Found:
        """The component or preset ``name``, or ``distribution/name``.

        Searches the built-ins, then the plugin of that name, then all others, which are imported only then.

        Raises:
            ComponentError: If no plugin provides it, its plugin is broken, or several plugins provide it.
        """
        role = Role(role)
        distribution, _, plain = name.rpartition("/")
        if self._memory is not None and (distribution == MEMORY or name == MEMORY):
            stages = [[self._memory], [self._builtin]]
        elif distribution:
            stages = [[p for p in (self._builtin, *self._plugins) if _normal(p.distribution) == _normal(distribution)]]
        else:
            stages = [[self._builtin], [p for p in self._plugins if p.name == plain], self._plugins]
        for stage in stages:
            for plugin in stage:
                plugin.activate()
            if hits := [f for p in stage for f in p.components if f.role is role and plain in f.component.names]:
                break
        else:
            raise self._missing(role, name, plain, stages[0] if distribution else self._plugins)
        if len(hits) > 1:
            providers = " and ".join(sorted(f.provider for f in hits))
            forms = " or ".join(sorted(f"{f.provider.split()[0]}/{plain}" for f in hits))
            raise ComponentError(f"{role.words} '{name}' is provided by {providers}", "", f"write {forms}")
        found = hits[0]
        preset = plain if plain in found.component.presets else None
        return Found(role, found.component, preset, dict(found.component.presets[preset]) if preset else {}, found.provider)

    def emit(self, event: Event) -> None:
        """Call every ``zsq_event`` with an event. An error of a plugin is logged once, and does not affect the others."""
        for plugin in self._listeners:
            try:
                plugin.hooks["zsq_event"](event=event)
            except (Exception, SystemExit) as error:
                if id(plugin) not in self._reported:
                    self._reported.add(id(plugin))
                    _log.warning("plugin '%s' (%s) failed on %s: %s", plugin.name, plugin.provider, type(event).__name__, one_line(error))
            trace(f"{plugin.name}.zsq_event <- {type(event).__name__}")

    @cached_property
    def _listeners(self) -> list[Plugin]:
        return [plugin for plugin in self._active() if "zsq_event" in plugin.hooks]

    def _active(self) -> list[Plugin]:
        everyone = [self._builtin, *self._plugins]
        for plugin in everyone:
            plugin.activate()
        return everyone

    def _note_conflicts(self) -> None:
        """Write into ``reason`` which names of a plugin another plugin has too; ``distribution/name`` still works."""
        owners: dict[tuple[Role, str], list[Plugin]] = {}
        for plugin in self._active():
            for found in plugin.components:
                for name in found.component.names:
                    owners.setdefault((found.role, name), []).append(plugin)
        for (role, name), several in owners.items():
            for plugin in several:
                others = sorted({p.provider for p in several if p is not plugin})
                if others and plugin is not self._builtin and not plugin.reason:
                    plugin.reason = f"{role.words} '{name}' is also provided by {', '.join(others)}: use {plugin.distribution}/{name}"

    def _missing(self, role: Role, name: str, plain: str, searched: Iterable[Plugin]) -> ComponentError:
        """The error for a name that was not found, with the most useful next step."""
        assert self._builtin.status != "broken", self._builtin.trace
        if name.startswith(f"{MEMORY}/"):
            what = f"{role.words} '{plain}' was an object in memory, which a recipe cannot hold"
            return ComponentError(what, "", f"pass it again in Python: zsq.quantize(..., {role}=...), or choose another one")
        registry = known_plugins()
        givers = {key for key, entry in registry.items() if plain in entry.get("provides", {}).get(role.plural, ())}
        for plugin in searched:
            likely = plugin.name in {plain, *givers} or "/" in name or (plugin.one_off and plugin.status == "broken")
            if likely and plugin.status in ("broken", "blocked"):
                what = f"{role.words} '{name}' is not available: {plugin.provider} is {plugin.status}"
                return ComponentError(
                    what, f"plugin '{plugin.name}': {plugin.reason}", "`zsq plugins list` shows the state of every plugin"
                )
        what = f"{role.words} '{name}' not found"
        if absent := sorted(givers - {p.name for p in self._plugins}):
            return ComponentError(what, "", f"known but not installed: zsq plugins install {absent[0]}")
        everything = self.components()
        names = {n: f.provider.split()[0] for f in everything if f.role is role for n in f.component.names}
        if "/" in name and plain in names:
            return ComponentError(what, "", f"did you mean '{names[plain]}/{plain}'?")
        if hint := nearest(plain, names):
            return ComponentError(what, "", hint)
        elsewhere = {n: key for key, entry in registry.items() for n in entry.get("provides", {}).get(role.plural, ())}
        if hint := nearest(plain, elsewhere):
            key = elsewhere[hint.split("'")[1]]
            return ComponentError(what, "", f"{hint} Not installed: zsq plugins install {key}")
        if other := next((f.role for f in everything if plain in f.component.names and f.role not in _NO_FLAG), None):
            return ComponentError(what, "", f"'{plain}' is a {other.words}: --{other} {plain}")
        own = sorted({f.component.name for f in everything if f.role is role})
        broken = sum(p.status == "broken" for p in self._plugins)
        more = f"; {broken} plugin(s) broken, see `zsq plugins list`" if broken else ""
        return ComponentError(what, "", f"there are: {', '.join(own) or 'none'}{more}")


def known_plugins() -> dict[str, Any]:
    """The plugins in ``registry.yaml``, by entry-point name; empty if the file is missing."""
    here = Path(__file__).resolve()
    for path in (here.parent / "registry.yaml", here.parents[2] / "registry.yaml"):
        if path.is_file():
            import yaml

            plugins: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["plugins"]
            return plugins
    return {}


def _read(distributions: Iterable[metadata.Distribution]) -> Iterator[Plugin]:
    """One plugin per entry point, for every version of the plugin API. The first distribution of a name hides later ones."""
    seen: set[str] = set()
    for distribution in distributions:
        name = version = ""
        try:
            if "[zsq." not in (distribution.read_text("entry_points.txt") or "").replace(" ", ""):
                continue
            name, version = _named(distribution)
            points = [point for point in distribution.entry_points if _ANY_VERSION.fullmatch(point.group)]
        except Exception as error:  # a damaged file can make the parser raise anything
            reason = f"its metadata cannot be read: {one_line(error)}"
            yield Plugin(name or "unknown", name or "unknown", version, "broken", reason, traceback.format_exc())
            continue
        if _normal(name) in seen:
            continue
        seen.add(_normal(name))
        for point in points:
            plugin = Plugin(point.name, name, version, load=point.load, module=point.module)
            if point.group != GROUP:
                speaks = point.group.removeprefix("zsq.v")
                plugin.status, plugin.reason = "broken", f"written for plugin API {speaks}, but this zsq has {API_VERSION}"
            yield plugin


def _named(distribution: metadata.Distribution) -> tuple[str, str]:
    """Name and version, from the first lines of the metadata; the rest is long (the README) and is not parsed."""
    head, _, _ = (distribution.read_text("METADATA") or "").partition("\n\n")
    found = dict(re.findall(r"^(Name|Version): *(\S+)", head, flags=re.MULTILINE))
    if found.keys() == {"Name", "Version"}:
        return found["Name"], found["Version"]
    return distribution.metadata["Name"] or "unknown", distribution.metadata["Version"] or ""


def _one_off(path: Path | str) -> Plugin:
    """The plugin in a single file. Its module has the name of the file, so that targets can use it."""
    path = Path(path)
    if not path.is_file():
        raise FileError(f"plugin file '{path}' not found", "", "pass the path of a Python file")

    def load() -> Any:
        spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
        other = sys.modules.get(path.stem) or importlib.util.find_spec(path.stem)
        origin = getattr(other, "__file__", None) or getattr(other, "origin", None)
        if other is not None and (origin is None or Path(origin).resolve() != path.resolve()):
            raise ImportError(f"there is another module '{path.stem}': rename the file")
        assert spec is not None and spec.loader is not None
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[path.stem]
            raise
        return module

    return Plugin(path.stem, path.name, load=load, one_off=True)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
