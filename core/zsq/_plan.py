"""A plan: every component of a run with its options, the needs of its steps, and its full recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from zsq._component import STUDENT_NEEDS, TEACHER_NEEDS, Component, Role
from zsq._recipe import Entry, Recipe, RunOptions, installed
from zsq.options import Options
from zsq.protocols import Alternating

#: The name of the component that does nothing.
NOTHING = "none"


@dataclass(frozen=True)
class Choice:
    """One component of a plan.

    Args:
        role: Its role.
        name: As typed: the component, a preset, or ``distribution/name``.
        component: Its descriptor.
        options: All its options.
        weight: Weight of a loss in the objective.
        provider: Distribution and version.
        settings: The options that the user or a suggestion set, as in a recipe.
    """

    role: Role
    name: str
    component: Component
    options: Options
    weight: float = 1.0
    provider: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.component.needs)

    @property
    def provides(self) -> frozenset[str]:
        """What it declares; every synthesizer except ``none`` also provides images."""
        images = {"images"} if self.role is Role.SYNTH and self.component.name != NOTHING else set()
        return frozenset(self.component.provides) | images

    @property
    def bits(self) -> int:
        """Bits of the finest grid of a quantizer, from its options that mean ``bits``; None counts as 16."""
        values = self.options.meaning("bits").values()
        return max((max(value) if isinstance(value, tuple) else value or 16 for value in values), default=8)

    @property
    def alternates(self) -> bool:
        """Whether a synthesizer is trained together with the student. Imports its class."""
        return self.component.has(Alternating)

    def __str__(self) -> str:
        return f"{self.role.words} '{self.name}'"

    def describe(self) -> dict[str, Any]:
        """Plain values for JSON."""
        row = {"role": str(self.role), "name": self.name, "component": self.component.name, "provider": self.provider}
        weight = {"weight": self.weight} if self.role is Role.LOSS else {}
        return {**row, **weight, "options": self.options.to_dict(), "needs": sorted(self.needs), "provides": sorted(self.provides)}

    def entry(self) -> Entry:
        """Its recipe entry."""
        return {"name": self.name, **({"weight": self.weight} if self.weight != 1 else {}), **self.settings}


@dataclass(frozen=True)
class Plan:
    """A chain that can run.

    ``ref`` is the teacher's reference without its source, ``task`` what the teacher's output means. With ``default_eval`` the user chose
    no evaluation, so the teacher's own may be added. ``recipe`` has every component with its settings; with ``default_eval`` its
    ``eval`` stays open. ``notes`` are for the user.
    """

    teacher: Choice
    ref: str
    task: Choice
    synth: Choice
    quant: Choice
    calibrators: tuple[Choice, ...]
    losses: tuple[Choice, ...]
    tuner: Choice
    evaluators: tuple[Choice, ...]
    exporters: tuple[Choice, ...]
    logs: tuple[Choice, ...]
    run: RunOptions
    recipe: Recipe
    default_eval: bool = False
    notes: tuple[str, ...] = ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Every component that affects the result, in the order of the recipe's sections."""
        return (self.teacher, self.synth, self.quant, *self.calibrators, *self.losses, self.tuner, *self.evaluators, *self.exporters)

    def describe(self) -> dict[str, Any]:
        """Plain values for ``zsq plan --json``."""
        return {
            "teacher": (self.recipe.teacher or {})["ref"],
            "task": self.task.name,
            "components": [choice.describe() for choice in (*self.choices, *self.logs)],
            "run": self.run.to_dict(),
            "needs": {key: sorted(names) for key, names in self.needs.items()},
            "forwards": self.forwards(),
            "default_eval": self.default_eval,
            "notes": list(self.notes),
            "recipe": self.recipe.to_dict(),
        }

    @property
    def lasting(self) -> Plan:
        """The plan as it is saved with the run: without logs, which do not affect the result."""
        return replace(self, logs=(), recipe=replace(self.recipe, log=None))

    @property
    def tunes(self) -> bool:
        """Whether the tuner uses the losses: only if it reads the student."""
        return bool(self.tuner.needs & STUDENT_NEEDS)

    @property
    def needs(self) -> dict[str, frozenset[str]]:
        """The needs of a step of the synthesizer, and of a step of the tuner with its losses."""
        losses = self.losses if self.tunes else ()
        return {"synth": self.synth.needs, "tune": self.tuner.needs.union(*(loss.needs for loss in losses))}

    def forwards(self) -> dict[str, dict[str, int]]:
        """Forward passes of teacher and student in a step of the synthesizer and of the tuner.

        A synthesizer that passes its batch on also passes the teacher's trace on; then the tuner needs no teacher forward pass.
        """
        steps = self.needs.items()
        return {key: {"teacher": int(bool(names & TEACHER_NEEDS)), "student": int(bool(names & STUDENT_NEEDS))} for key, names in steps}


def pins(plan: Plan) -> dict[str, str]:
    """Versions that a run depends on: zsq, torch, numpy, python, and the distribution of each component used."""
    used = (choice.provider.rpartition(" ") for choice in plan.choices)
    versions = {name: version for name, _, version in used if name and version}
    return {name: installed(name) or "unknown" for name in ("zsq", "torch", "numpy", "python")} | {k: versions[k] for k in sorted(versions)}
