"""Runs whole chains in a moment: small option values for any component, and a run on a tiny teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._component import Component, Role

if TYPE_CHECKING:
    from zsq._manager import Manager
    from zsq._recipe import Recipe
    from zsq._run.engine import Finished

#: A word of an integer option's name, and the value that makes it small.
_SMALL = {"images": 8, "pool": 8, "steps": 2, "iters": 2, "iterations": 2, "epochs": 1, "batches": 2, "warmup": 1, "batch": 4}

_BOUNDS: Mapping[str, Callable[[float, float], bool]] = {
    "ge": lambda v, b: v >= b,
    "gt": lambda v, b: v > b,
    "le": lambda v, b: v <= b,
    "lt": lambda v, b: v < b,
}

_TEACHER = {"ref": "py:zsq.testing.teachers:tiny", "shape": [3, 8, 8], "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "classes": 4}


def tiny_values(component: Component) -> dict[str, int]:
    """Small values for every counting option of a component (steps, images, batches, warm-up), as its bounds allow.

    An option counts when a word of its name is in the table and its default is a larger integer.
    """
    values = {}
    for field in dataclasses.fields(component.options):
        small = next((_SMALL[word] for word in field.name.split("_") if word in _SMALL), None)
        if small is None or isinstance(field.default, bool) or not isinstance(field.default, int) or field.default <= small:
            continue
        if all(_BOUNDS[kind](small, bound) for kind, bound in field.metadata["bounds"].items()):
            values[field.name] = small
    return values


def tiny_recipe(sections: Mapping[str, Any] | None = None, steps: int = 2, manager: Manager | None = None) -> Recipe:
    """A recipe over the tiny teacher: ``sections`` as in a recipe file, the rest filled with built-ins, every count small.

    Args:
        sections: ``{"synth": {"name": "noise"}, "calib": ["minmax"], ...}``; a bare name stands for ``{"name": ...}``.
        steps: Of the tuner.
        manager: Where components are looked up to make them small; every installed one when None.
    """
    from zsq._manager import Manager
    from zsq._recipe import Recipe, parse_entry

    manager = manager or Manager.discover()
    given = dict(sections or {})

    def small(role: Role, entry: Any) -> dict[str, Any]:
        entry = parse_entry(role.value, entry)
        return {**entry, **{k: v for k, v in tiny_values(manager.get(role, entry["name"]).component).items() if k not in entry}}

    def many(role: Role, default: list[Any]) -> list[dict[str, Any]]:
        entries = given.pop(role.value, default)
        return [small(role, entry) for entry in (entries if isinstance(entries, (list, tuple)) else [entries])]

    tune = parse_entry("tune", given.pop("tune", "finetune"))
    if any(row.name == "steps" for row in manager.get(Role.TUNE, tune["name"]).component.options.describe()):
        tune.setdefault("steps", steps)
    return Recipe.from_dict(
        {
            "zsq": 1,
            "teacher": parse_entry("teacher", given.pop("teacher", _TEACHER)),
            "synth": small(Role.SYNTH, given.pop("synth", "noise")),
            "quant": small(Role.QUANT, given.pop("quant", "uniform4")),
            "calib": many(Role.CALIB, ["minmax"]),
            "loss": many(Role.LOSS, ["kd"]),
            "tune": small(Role.TUNE, tune),
            "eval": many(Role.EVAL, ["agreement"]),
            "export": many(Role.EXPORT, ["safetensors"]),
            "log": many(Role.LOG, []),
            "run": {"batch_size": 4, "precision": "fp32", **given.pop("run", {})},
            **given,
        }
    )


def tiny_run(sections: Mapping[str, Any] | None = None, steps: int = 2, *, folder: Path | None = None, manager: Manager | None = None,
             **named: Any) -> Finished:  # fmt: skip
    """Compose and run :func:`tiny_recipe`; further keywords go to the engine.

    Raises:
        PlanError: If the chain is refused.
    """
    from zsq._compose import compose
    from zsq._manager import Manager
    from zsq._run.engine import run

    manager = manager or Manager.discover()
    return run(compose(tiny_recipe(sections, steps, manager), manager), folder, manager=manager, **named)
