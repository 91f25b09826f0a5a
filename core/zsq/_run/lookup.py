"""Builds components by their names, for other components and for work outside of a run; makes the task of a teacher."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._manager import Manager

if TYPE_CHECKING:
    from zsq._plan import Choice
    from zsq.protocols import Task
    from zsq.types import Context, Finder, Say


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

    from zsq.types import Context, Precision

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
