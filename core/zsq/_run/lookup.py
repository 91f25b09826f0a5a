"""Finds things by their names: components that another component asks for, the task of a teacher, and saved students."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._component import Role
from zsq._manager import Manager
from zsq.errors import FileError, ZsqError

if TYPE_CHECKING:
    from zsq._plan import Choice
    from zsq.protocols import Store, Task
    from zsq.types import Context, Finder, Say

#: The store of a place that names none.
DEFAULT_STORE = "hub"
_NAMED = re.compile(r"(?P<store>(?:[\w.-]+/)?[A-Za-z][\w-]+):(?P<rest>.*)", re.DOTALL)  # two letters at least: C: is a disk
_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@\S+)?")


def finder(manager: Manager | None = None) -> Finder:
    """What :meth:`zsq.types.Context.find` calls: it builds components by role and name.

    Args:
        manager: The plugins to search; all installed ones if None, discovered at the first call.
    """
    known = [manager] if manager is not None else []

    def find(ctx: Context, role: str, name: str, options: Mapping[str, Any]) -> Any:
        if not known:
            known.append(Manager.discover())
        found = known[0].get(role, name)
        values = found.component.options.parse({**found.values, **options}, f"{found.role.words} '{name}'")
        return found.component.implementation()(values, ctx)

    return find


def plain_context(manager: Manager | None = None, workdir: Path | None = None, log: Say | None = None) -> Context:
    """The context of components that are used outside of a run: CPU, float32, seed 0, messages to standard error."""
    import torch

    from zsq.training import Precision
    from zsq.types import Context

    rng = torch.Generator().manual_seed(0)
    say = log or (lambda text: print(text, file=sys.stderr))
    return Context(rng, torch.device("cpu"), Precision("fp32"), workdir, say, finder=finder(manager))


def task_maker(choice: Choice) -> Callable[[int], Task]:
    """Makes the chosen task for a number of classes, which is known once the teacher is loaded; this is ``Context.task``."""

    def make(classes: int) -> Task:
        options = choice.component.options.parse({**choice.options.to_dict(), "classes": classes}, str(choice))
        task: Task = choice.component.implementation()(options, None)
        return task

    return make


def locate(place: Path | str, revision: str | None = None, *, exported: bool = False, manager: Manager | None = None) -> Path:
    """The folder of a saved student.

    Args:
        place: A folder; or ``STORE:REST``, such as ``hub:ORG/NAME[@REVISION]``; or, if no such folder exists, ``ORG/NAME[@REVISION]`` on
            the Hub.
        revision: Branch, tag or commit, of a student in a store.
        exported: Fetch the exported files as well.
        manager: The plugins to search; all installed ones if None.

    Raises:
        FileError: If a folder comes with a revision, or ``place`` is neither a folder nor a student in a store.
        ZsqError: If the plugin of the store is not installed, or cannot fetch the student.
    """
    text = str(place)
    explicit = text.startswith(f"{DEFAULT_STORE}:")
    if not explicit and (Path(text).exists() or not (in_store(text) or (isinstance(place, str) and _ID.fullmatch(text)))):
        if revision is not None:
            raise FileError(f"'{text}' is a folder, which has no revision '{revision}'", "", "a student on the Hub: hub:ORG/NAME")
        return Path(place)
    try:
        found, rest = store(text, manager)
        return found.fetch(rest, revision, exported=exported)
    except ZsqError as error:
        if explicit:
            raise
        raise FileError(f"there is no folder '{text}', and: {error.what}", error.where, error.hint) from error


def in_store(text: str) -> bool:
    """Whether a text has the form ``STORE:REST``."""
    return _NAMED.fullmatch(text) is not None


def store(place: str, manager: Manager | None = None) -> tuple[Store, str]:
    """The store of ``STORE:REST``, by default the Hub, and the rest.

    Raises:
        ComponentError: If no installed plugin has it.
    """
    match = _NAMED.fullmatch(place)
    name, rest = (match["store"], match["rest"]) if match else (DEFAULT_STORE, place)
    found: Store = plain_context(manager).find(Role.STORE, name)
    return found, rest
