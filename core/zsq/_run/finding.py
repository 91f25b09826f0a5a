"""Components for other components, and for work outside of a run: what ``Context.find`` does."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._manager import Manager

if TYPE_CHECKING:
    from zsq.types import Context, Finder, Say


def finder(manager: Manager | None = None) -> Finder:
    """Builds components that ``manager`` knows.

    Args:
        manager: The plugins that may take part; all that are installed when None, looked for when the first component is asked for.
    """
    known = [manager] if manager is not None else []

    def find(ctx: Context, role: str, name: str, options: Mapping[str, Any]) -> Any:
        if not known:
            known.append(Manager.discover())
        found = known[0].get(role, name)
        values = found.component.options.parse({**found.values, **options}, f"{found.role.words} '{name}'")
        return found.component.implementation()(values, ctx)

    return find


def _print(message: str) -> None:
    print(message, file=sys.stderr)


def plain_context(manager: Manager | None = None, workdir: Path | None = None, log: Say = _print) -> Context:
    """The context of components that are used outside of a run: CPU, float32, seed 0, messages to standard error."""
    import torch

    from zsq.training import Precision
    from zsq.types import Context

    rng = torch.Generator().manual_seed(0)
    return Context(rng, torch.device("cpu"), Precision("fp32"), workdir, log, finder=finder(manager))
