"""What a run is made of: every component with its options, what is captured in its steps, and its recipe in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from zsq._component import STUDENT_NEEDS, TEACHER_NEEDS, Component, Role
from zsq._recipe import Entry, Recipe, RunOptions, installed
from zsq.options import Options
from zsq.protocols import Alternating

#: The name that stands for nothing, in roles where nothing is a choice.
NOTHING = "none"


@dataclass(frozen=True)
class Choice:
    """One component of a plan.

    Args:
        role: Its role.
        name: As typed: the component, a preset, or ``distribution/name``.
        component: Its descriptor.
        options: All its options.
        weight: Of a loss in the objective.
        provider: Distribution and version.
        settings: The options that were set, by the user or by a suggestion, as they stand in a recipe.
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
        """What it declares; and images, of every synthesizer but ``none``."""
        images = {"images"} if self.role is Role.SYNTH and self.component.name != NOTHING else set()
        return frozenset(self.component.provides) | images

    @property
    def bits(self) -> int:
        """Of the finest grid that a quantizer may choose, by its options that mean ``bits``; one that is none counts as 16."""
        values = self.options.meaning("bits").values()
        return max((max(value) if isinstance(value, tuple) else value or 16 for value in values), default=8)

    @property
    def alternates(self) -> bool:
        """Whether a synthesizer learns while the student does. Imports its class."""
        return self.component.has(Alternating)

    def __str__(self) -> str:
        return f"{self.role.words} '{self.name}'"

    def describe(self) -> dict[str, Any]:
        """Plain values for JSON."""
        row = {"role": str(self.role), "name": self.name, "component": self.component.name, "provider": self.provider}
        weight = {"weight": self.weight} if self.role is Role.LOSS else {}
        return {**row, **weight, "options": self.options.to_dict(), "needs": sorted(self.needs), "provides": sorted(self.provides)}

    def entry(self) -> Entry:
        """As it stands in a recipe."""
        return {"name": self.name, **({"weight": self.weight} if self.weight != 1 else {}), **self.settings}


@dataclass(frozen=True)
class Plan:
    """A chain that can run.

    ``ref`` is what follows the source in the teacher's reference, and ``task`` what the teacher's output means, as its source
    says. ``default_eval`` says that the user asked for no evaluation, so that the teacher's own may be added. ``recipe`` names every
    component with its settings; only ``eval`` stays open under ``default_eval``, so that the recipe gives the same evaluation again.
    ``logs`` hear what happens. ``notes`` are for the user.
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
        """Every component that has a part in the outcome, in the order of the recipe's sections."""
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
        """The plan as it is saved with what came of it: without logs, which are nobody else's, and change nothing."""
        return replace(self, logs=(), recipe=replace(self.recipe, log=None))

    @property
    def tunes(self) -> bool:
        """Whether the losses are run by the tuner: one that never reads the student takes no gradient."""
        return bool(self.tuner.needs & STUDENT_NEEDS)

    @property
    def needs(self) -> dict[str, frozenset[str]]:
        """What is captured in a step of the synthesizer, and in one of the tuner with the losses that it runs."""
        losses = self.losses if self.tunes else ()
        return {"synth": self.synth.needs, "tune": self.tuner.needs.union(*(loss.needs for loss in losses))}

    def forwards(self) -> dict[str, dict[str, int]]:
        """Forwards of teacher and student per step of the synthesizer and of the tuner, as the needs say.

        A synthesizer that hands its batch on hands the teacher's answer on with it; the tuner's teacher forward then falls away.
        """
        steps = self.needs.items()
        return {key: {"teacher": int(bool(names & TEACHER_NEEDS)), "student": int(bool(names & STUDENT_NEEDS))} for key, names in steps}


def pins(plan: Plan) -> dict[str, str]:
    """Versions that a run depends on: zsq, torch, numpy, python, and the distribution of each component used."""
    used = (choice.provider.rpartition(" ") for choice in plan.choices)
    versions = {name: version for name, _, version in used if name and version}
    return {name: installed(name) or "unknown" for name in ("zsq", "torch", "numpy", "python")} | {k: versions[k] for k in sorted(versions)}
