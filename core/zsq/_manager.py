"""The phone book: finds plugins, loads them one by one, and keeps what is wrong with one away from all the others.

Three states: *discovered* (names and versions, nothing imported), *activated* (entry module imported, hooks checked, components
collected), and the component's own code, which only ``Component.implementation`` imports. A failure is a value of its plugin.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from zsq import _hookspecs
from zsq._component import API_VERSION, GROUP, Component, Role
from zsq._recipe import Recipe, RunOptions
from zsq._version import __version__
from zsq.errors import ComponentError, FileError, nearest

if TYPE_CHECKING:
    from zsq.events import Event

Status = Literal["found", "ok", "broken", "blocked"]
#: What components in memory are called by, in the place of a distribution: ``memory/NAME``.
MEMORY = "memory"
#: The hook that yields components of every role.
ANY_ROLE = "zsq_components"
#: Hooks that yield components, and of which role; None of any.
_COLLECTORS: Mapping[str, Role | None] = {**{role.hook: role for role in Role}, ANY_ROLE: None}
#: Roles whose components are not chosen by a flag of their own.
_NO_FLAG = (Role.TEACHER, Role.TASK, Role.READER, Role.STORE)
_ANY_VERSION = re.compile(r"zsq\.v\d+")
_log = logging.getLogger("zsq")


@dataclass(frozen=True)
class Found:
    """A component and where it comes from; ``values`` are those of the preset that was asked for."""

    role: Role
    component: Component
    preset: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    provider: str = ""


@dataclass
class Plugin:
    """One entry point.

    Args:
        name: Of the entry point.
        distribution: That it came with (for a one-off: the file's name).
        version: Of the distribution.
        status: ``ok``, ``broken`` or ``blocked``; ``found`` until it is activated.
        reason: One line: why it is broken or blocked, or which of its names are taken by others as well.
        trace: The traceback, where there is one.
        components: What it yields.
        load: Gives its entry module, or a class with hooks as methods, of which one is made for every manager.
        hooks: Its hooks alone, by name, once it is activated.
        pluggy: Checks and holds the hooks of all plugins of one manager.
        one_off: Whether the user named its file.
        module: Path of its entry module; empty for the built-ins and one-offs.
    """

    name: str
    distribution: str
    version: str = ""
    status: Status = "found"
    reason: str = ""
    trace: str = field(default="", repr=False)
    components: list[Found] = field(default_factory=list)
    load: Callable[[], Any] | None = field(default=None, repr=False, compare=False)
    hooks: Mapping[str, Callable[..., Any]] = field(default_factory=dict, repr=False, compare=False)
    pluggy: pluggy.PluginManager | None = field(default=None, repr=False, compare=False)
    one_off: bool = False
    module: str = ""

    @property
    def provider(self) -> str:
        """Distribution and version in one word each."""
        return f"{self.distribution} {self.version}".strip()

    def activate(self) -> None:
        """Import the entry module and collect its components; whatever goes wrong is written down here, and leaves nothing behind."""
        if self.status != "found":
            return
        assert self.load is not None
        stage = "cannot be imported"
        try:
            entry = self.load()
            stage = "has a bad hook"
            hooks = _register(self.pluggy or _hooks(), entry() if isinstance(entry, type) else entry)
            for hook, role in _COLLECTORS.items():
                if hook in hooks:
                    stage = f"{hook} failed"
                    self.components += self._collect(role, hooks[hook]())
            self.status, self.hooks = "ok", hooks
        except (Exception, SystemExit) as error:
            self.status, self.components = "broken", []
            self.reason, self.trace = f"{stage}: {_one_line(error)}", traceback.format_exc()
        _trace(f"{self.name}: {self.reason or self.status}")

    def _collect(self, role: Role | None, yielded: Iterable[Any]) -> Iterator[Found]:
        """What a hook of one role yielded, or of any role (None)."""
        taken = {(found.role, name) for found in self.components for name in found.component.names}
        for component in yielded:
            if not isinstance(component, Component):
                raise TypeError(f"yields {type(component).__name__}, not zsq.Component")
            own = role or component.role
            if own is None:
                raise ValueError(f"component '{component.name}' has no role: say which, e.g. Component(..., role='synth')")
            if component.role not in (None, own):
                raise ValueError(f"component '{component.name}' of role {component.role} is yielded as {own}")
            _check_suggestions(component)
            if twice := [name for name in component.names if (own, name) in taken]:
                raise ValueError(f"yields '{min(twice)}' twice")
            taken.update((Role(own), name) for name in component.names)
            _trace(f"{self.name}.{role.hook if role else ANY_ROLE} -> {component.name}")
            yield Found(Role(own), component, provider=self.provider)


class Manager:
    """All plugins of this environment. Made by :meth:`discover`."""

    def __init__(self, builtin: Plugin, plugins: Iterable[Plugin], memory: Plugin | None = None) -> None:
        self._builtin, self._plugins, self._memory = builtin, list(plugins), memory
        self._reported: set[int] = set()

    @classmethod
    def discover(cls, *, only: Iterable[str] | None = None, third_party: bool = True, files: Iterable[Path | str] = (),
                 distributions: Iterable[metadata.Distribution] | None = None) -> Manager:  # fmt: skip
        """Read names and versions of all plugins; imports none.

        Args:
            only: Names of plugins or distributions to use, the others are blocked; with a minus before them (``-a``) those to
                leave out; else as ``ZSQ_PLUGINS=a,b`` says.
            third_party: False blocks every plugin but the built-ins and ``files``.
            files: One-off plugins: paths of Python files.
            distributions: Where to look instead of the whole environment.

        Raises:
            FileError: When one of ``files`` does not exist.
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
        checked = _hooks()
        builtin = Plugin("builtin", "zsq", __version__, load=lambda: import_module("zsq._builtin"))
        everyone = [*plugins, *map(_one_off, files)]
        for plugin in (builtin, *everyone):
            plugin.pluggy = checked
        return cls(builtin, everyone)

    def with_memory(self, plugin: Plugin | None) -> Manager:
        """The same plugins, and before them the components that somebody holds in memory."""
        return Manager(self._builtin, self._plugins, plugin)

    def plugins(self) -> list[Plugin]:
        """Every plugin but the built-ins, activated."""
        for plugin in self._plugins:
            plugin.activate()
        self._note_conflicts()
        return list(self._plugins)

    def installed(self) -> list[Plugin]:
        """Every plugin but the built-ins, as far as it is known without importing it."""
        return list(self._plugins)

    def components(self, role: Role | str | None = None) -> list[Found]:
        """Every component that can be had, one of a name after another where several plugins give it; built-ins first."""
        everything = [found for plugin in self._active() for found in plugin.components]
        return [found for found in everything if role is None or found.role == role]

    def get(self, role: Role | str, name: str) -> Found:
        """The component or preset ``name``, or ``distribution/name``.

        Built-ins come first, then the plugin that is called ``name``; all others are imported only on a miss.

        Raises:
            ComponentError: When nobody provides it, its plugin is broken, or several provide it.
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
            raise ComponentError(f"{role.words} '{name}' is provided by {providers}", "", f"say which: {forms}")
        found = hits[0]
        preset = plain if plain in found.component.presets else None
        return Found(role, found.component, preset, dict(found.component.presets[preset]) if preset else {}, found.provider)

    def emit(self, event: Event) -> None:
        """Hand an event to every ``zsq_event``, one plugin at a time; an error in one is logged once and goes no further."""
        for plugin in self._listeners:
            try:
                plugin.hooks["zsq_event"](event=event)
            except (Exception, SystemExit) as error:
                if id(plugin) not in self._reported:
                    self._reported.add(id(plugin))
                    _log.warning("plugin '%s' (%s) failed on %s: %s", plugin.name, plugin.provider, type(event).__name__, _one_line(error))
            _trace(f"{plugin.name}.zsq_event <- {type(event).__name__}")

    @cached_property
    def _listeners(self) -> list[Plugin]:
        return [plugin for plugin in self._active() if "zsq_event" in plugin.hooks]

    def _active(self) -> list[Plugin]:
        everyone = [self._builtin, *self._plugins]
        for plugin in everyone:
            plugin.activate()
        return everyone

    def _note_conflicts(self) -> None:
        """A third-party plugin with a name that somebody else has too says so in its reason; it works under its qualified name."""
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
        """The most helpful thing to say about a name that was not found."""
        assert self._builtin.status != "broken", self._builtin.trace
        if name.startswith(f"{MEMORY}/"):
            what = f"{role.words} '{plain}' was an object in memory, which no recipe holds"
            return ComponentError(what, "", f"give it again in Python: zsq.quantize(..., {role}=...), or choose another one")
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
    """The plugins in ``registry.yaml``, by entry-point name; empty where the file did not come along."""
    here = Path(__file__).resolve()
    for path in (here.parent / "registry.yaml", here.parents[2] / "registry.yaml"):
        if path.is_file():
            import yaml

            plugins: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["plugins"]
            return plugins
    return {}


def _read(distributions: Iterable[metadata.Distribution]) -> Iterator[Plugin]:
    """One plugin per entry point of any version of the plugin API; the first distribution of a name hides later ones."""
    seen: set[str] = set()
    for distribution in distributions:
        name = version = ""
        try:
            if "[zsq." not in (distribution.read_text("entry_points.txt") or "").replace(" ", ""):
                continue
            name, version = _named(distribution)
            points = [point for point in distribution.entry_points if _ANY_VERSION.fullmatch(point.group)]
        except Exception as error:  # whatever a damaged file makes the parser raise
            reason = f"its metadata cannot be read: {_one_line(error)}"
            yield Plugin(name or "unknown", name or "unknown", version, "broken", reason, traceback.format_exc())
            continue
        if _normal(name) in seen:
            continue
        seen.add(_normal(name))
        for point in points:
            plugin = Plugin(point.name, name, version, load=point.load, module=point.module)
            if point.group != GROUP:
                speaks = point.group.removeprefix("zsq.v")
                plugin.status, plugin.reason = "broken", f"written for plugin API {speaks}, this zsq speaks {API_VERSION}"
            yield plugin


def _named(distribution: metadata.Distribution) -> tuple[str, str]:
    """Name and version. Where they stand in the first lines, as they do, nothing else of the metadata is parsed: it holds the README."""
    head, _, _ = (distribution.read_text("METADATA") or "").partition("\n\n")
    found = dict(re.findall(r"^(Name|Version): *(\S+)", head, flags=re.MULTILINE))
    if found.keys() == {"Name", "Version"}:
        return found["Name"], found["Version"]
    return distribution.metadata["Name"] or "unknown", distribution.metadata["Version"] or ""


def _one_off(path: Path | str) -> Plugin:
    """The plugin in a single file. Its module is called as the file is, so that targets may name it."""
    path = Path(path)
    if not path.is_file():
        raise FileError(f"plugin file '{path}' not found", "", "give the path of a Python file")

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


def _hooks() -> pluggy.PluginManager:
    """Knows the specification of every hook, and no plugin yet."""
    manager = pluggy.PluginManager("zsq")
    manager.add_hookspecs(_hookspecs)
    return manager


def _register(manager: pluggy.PluginManager, entry: Any) -> dict[str, Callable[..., Any]]:
    """Hooks of one plugin by name: signatures checked by pluggy, names checked here, because pluggy takes a misspelt hook silently."""
    known = (*_COLLECTORS, "zsq_event")
    if manager.is_registered(entry):  # one module behind two entry points
        manager = _hooks()
    manager.register(entry)
    hooks: dict[str, Callable[..., Any]] = {}
    for caller in manager.get_hookcallers(entry) or ():
        if caller.name not in known:
            manager.unregister(entry)
            raise AttributeError(f"there is no hook '{caller.name}'; {nearest(caller.name, known) or 'hooks: ' + ', '.join(known)}")
        hooks[caller.name] = _calling(next(hook for hook in caller.get_hookimpls() if hook.plugin is entry))
    return hooks


def _calling(hook: pluggy.HookImpl) -> Callable[..., Any]:
    """The implementation, called with those arguments that it takes."""
    return lambda **given: hook.function(*(given[name] for name in hook.argnames))


def _check_suggestions(component: Component) -> None:
    """A recipe fragment that no recipe could hold is the plugin's error, not the user's."""
    if not component.suggests:
        return
    if unread := component.suggests.keys() & {"teacher", "log", "pins", "set", "zsq"}:
        raise ValueError(f"component '{component.name}' suggests '{min(unread)}', which nobody reads")
    RunOptions.parse(Recipe.from_dict(component.suggests, f"the suggestions of '{component.name}'").run)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _one_line(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it called sys.exit({'' if error.code is None else error.code!r})"
    if isinstance(error, pluggy.PluginValidationError):
        return " ".join(line.strip() for line in str(error).splitlines() if line.strip())[-240:]
    text = " ".join(str(error).split())[:240]
    return text if isinstance(error, AttributeError) and text.startswith("there is no hook") else f"{type(error).__name__}: {text}"


def _trace(text: str) -> None:
    if os.environ.get("ZSQ_TRACE") == "1":
        print(f"zsq: {text}", file=sys.stderr)
