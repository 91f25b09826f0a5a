"""One plugin: its entry module is imported, its hooks are checked, its components collected. A failure is a value, not an error."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pluggy

from zsq import _hookspecs
from zsq._component import Component, Role
from zsq._recipe import Recipe, RunOptions
from zsq.errors import nearest

Status = Literal["found", "ok", "broken", "blocked"]
#: Components in memory have this name in place of a distribution: ``memory/NAME``.
MEMORY = "memory"
#: The hook that yields components of every role.
ANY_ROLE = "zsq_components"
#: Hooks that yield components, with their role; None means any role.
_COLLECTORS: Mapping[str, Role | None] = {**{role.hook: role for role in Role}, ANY_ROLE: None}


@dataclass(frozen=True)
class Found:
    """A component and its provider; ``values`` are the options of the chosen preset."""

    role: Role
    component: Component
    preset: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    provider: str = ""


@dataclass
class Plugin:
    """One entry point.

    Args:
        name: Name of the entry point.
        distribution: Its distribution; for a single file, the name of the file.
        version: Version of the distribution.
        status: ``ok``, ``broken`` or ``blocked``; ``found`` before activation.
        reason: One line: why it is broken or blocked, or which of its names other plugins have too.
        trace: The traceback, if there is one.
        components: Its components.
        load: Returns its entry module, or a class with hooks as methods.
        hooks: Its hooks by name, after activation.
        pluggy: Checks the hooks of all plugins of one manager.
        one_off: Whether it is a single file.
        module: Name of its entry module; empty for the built-ins and single files.
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
        """Distribution and version, as ``zsq-qimera 0.1``."""
        return f"{self.distribution} {self.version}".strip()

    def activate(self) -> None:
        """Import the entry module and collect its components. An error is kept in ``reason`` and ``trace``."""
        if self.status != "found":
            return
        assert self.load is not None
        stage = "cannot be imported"
        try:
            entry = self.load()
            stage = "has a bad hook"
            hooks = _register(self.pluggy or hook_manager(), entry() if isinstance(entry, type) else entry)
            for hook, role in _COLLECTORS.items():
                if hook in hooks:
                    stage = f"{hook} failed"
                    self.components += self._collect(role, hooks[hook]())
            self.status, self.hooks = "ok", hooks
        except (Exception, SystemExit) as error:
            self.status, self.components = "broken", []
            self.reason, self.trace = f"{stage}: {one_line(error)}", traceback.format_exc()
        trace(f"{self.name}: {self.reason or self.status}")

    def _collect(self, role: Role | None, yielded: Iterable[Any]) -> Iterator[Found]:
        """The components that a hook yielded, all of one ``role``; None means any role."""
        taken = {(found.role, name) for found in self.components for name in found.component.names}
        for component in yielded:
            if not isinstance(component, Component):
                raise TypeError(f"yields {type(component).__name__}, not zsq.Component")
            own = role or component.role
            if own is None:
                raise ValueError(f"component '{component.name}' has no role: write e.g. Component(..., role='synth')")
            if component.role not in (None, own):
                raise ValueError(f"component '{component.name}' of role {component.role} is yielded as {own}")
            _check_suggestions(component)
            if twice := [name for name in component.names if (own, name) in taken]:
                raise ValueError(f"yields '{min(twice)}' twice")
            taken.update((Role(own), name) for name in component.names)
            trace(f"{self.name}.{role.hook if role else ANY_ROLE} -> {component.name}")
            yield Found(Role(own), component, provider=self.provider)


def hook_manager() -> pluggy.PluginManager:
    """A pluggy manager with the specification of every hook."""
    manager = pluggy.PluginManager("zsq")
    manager.add_hookspecs(_hookspecs)
    return manager


def _register(manager: pluggy.PluginManager, entry: Any) -> dict[str, Callable[..., Any]]:
    """The hooks of one plugin by name. pluggy checks signatures; names are checked here, because pluggy ignores a misspelt hook."""
    known = (*_COLLECTORS, "zsq_event")
    if manager.is_registered(entry):  # one module behind two entry points
        manager = hook_manager()
    manager.register(entry)
    hooks: dict[str, Callable[..., Any]] = {}
    for caller in manager.get_hookcallers(entry) or ():
        if caller.name not in known:
            manager.unregister(entry)
            raise AttributeError(f"there is no hook '{caller.name}'; {nearest(caller.name, known) or 'hooks: ' + ', '.join(known)}")
        hooks[caller.name] = _calling(next(hook for hook in caller.get_hookimpls() if hook.plugin is entry))
    return hooks


def _calling(hook: pluggy.HookImpl) -> Callable[..., Any]:
    """The implementation, called with the arguments that it declares."""
    return lambda **given: hook.function(*(given[name] for name in hook.argnames))


def _check_suggestions(component: Component) -> None:
    """Check the suggested recipe fragment, so that an error in it is reported for the plugin."""
    if not component.suggests:
        return
    if unread := component.suggests.keys() & {"teacher", "log", "pins", "set", "zsq"}:
        raise ValueError(f"component '{component.name}' suggests '{min(unread)}', which is ignored")
    RunOptions.parse(Recipe.from_dict(component.suggests, f"the suggestions of '{component.name}'").run)


def one_line(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it called sys.exit({'' if error.code is None else error.code!r})"
    if isinstance(error, pluggy.PluginValidationError):
        return " ".join(line.strip() for line in str(error).splitlines() if line.strip())[-240:]
    text = " ".join(str(error).split())[:240]
    return text if isinstance(error, AttributeError) and text.startswith("there is no hook") else f"{type(error).__name__}: {text}"


def trace(text: str) -> None:
    if os.environ.get("ZSQ_TRACE") == "1":
        print(f"zsq: {text}", file=sys.stderr)
