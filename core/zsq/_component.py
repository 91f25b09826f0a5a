"""The descriptor of a component: it names a class without importing it. Also the roles, and the vocabulary of needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from zsq.options import Options, validate_class

API_VERSION = 1
GROUP = f"zsq.v{API_VERSION}"


class Role(StrEnum):
    """The roles of a chain. The value is the key in recipes, ``--set`` and error messages."""

    TEACHER = "teacher"
    TASK = "task"
    SYNTH = "synth"
    QUANT = "quant"
    CALIB = "calib"
    LOSS = "loss"
    TUNE = "tune"
    EVAL = "eval"
    EXPORT = "export"
    LOG = "log"
    READER = "reader"
    STORE = "store"

    @property
    def words(self) -> str:
        """The name of the role in messages and tables."""
        return _WORDS[self][0]

    @property
    def plural(self) -> str:
        """The plural, for example ``synthesizers``: the key under ``provides`` in ``registry.yaml``."""
        return _WORDS[self][1]

    @property
    def hook(self) -> str:
        """The hook that collects components of this role."""
        return f"zsq_{self.plural}"


_WORDS = {
    Role.TEACHER: ("teacher source", "teachers"),
    Role.TASK: ("task", "tasks"),
    Role.SYNTH: ("synthesizer", "synthesizers"),
    Role.QUANT: ("quantizer", "quantizers"),
    Role.CALIB: ("calibrator", "calibrators"),
    Role.LOSS: ("loss", "losses"),
    Role.TUNE: ("tuner", "tuners"),
    Role.EVAL: ("evaluator", "evaluators"),
    Role.EXPORT: ("exporter", "exporters"),
    Role.LOG: ("log", "logs"),
    Role.READER: ("reader", "readers"),
    Role.STORE: ("store", "stores"),
}

#: The vocabulary of needs and provides: what a component reads, and what it offers to later components.
NEEDS: Mapping[str, str] = {
    "classes": "a task that gives every image one class",
    "targets": "batches with targets",
    "teacher.output": "the teacher's output",
    "teacher.features": "the teacher's features at its taps",
    "teacher.bn": "BatchNorm layers in the teacher",
    "student.output": "the student's output",
    "student.features": "the student's features at the teacher's taps",
    "images": "batches of images",
    "pool": "a pool of images made before quantization",
    "act.range": "activation points with a settable range",
    "graph": "a student whose module is a graph of layers",
    "weights.live": "weights that may still change before they are put on their grid",
    "rounding": "weight points with learnable rounding",
}
#: Needs that take a forward pass of the teacher, and of the student. BatchNorm is checked when the teacher is loaded.
TEACHER_NEEDS = frozenset({"teacher.output", "teacher.features", "teacher.bn"})
STUDENT_NEEDS = frozenset({"student.output", "student.features"})


@dataclass(frozen=True)
class Component:
    """One selectable component.

    Args:
        name: As users type it: ``--synth NAME``. Unique per role.
        target: ``package.module:Class``, imported only when the component is built as ``Class(options, ctx)``.
        options: Its options class.
        summary: One sentence for ``zsq plugins list`` and ``zsq show``.
        presets: Further selectable names, each with option values: ``{"uniform4": {"weight_bits": 4}}``.
        needs: What it reads, from :data:`NEEDS`.
        provides: What it offers to later components, from the same vocabulary.
        paper: The publication, e.g. ``"NeurIPS 2021, arXiv 2111.02625"``.
        suggests: A recipe fragment for sections that the user left open, e.g. ``{"calib": ["ema"], "tune": {"steps": 400}}``.
        tasks: For a teacher source: pattern of a reference (without the source) to the task of that teacher, e.g.
            ``{"depth-*": "depth"}``; the first match counts. An option of the source that means ``task`` goes before it.
        role: Its role, e.g. ``"synth"``; needed only in the hook ``zsq_components``.
    """

    name: str
    target: str
    options: type[Options] = Options
    summary: str = ""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needs: frozenset[str] | set[str] | tuple[str, ...] = frozenset()
    provides: frozenset[str] | set[str] | tuple[str, ...] = frozenset()
    paper: str = ""
    suggests: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)
    role: Role | str | None = None

    def __post_init__(self) -> None:
        module, _, attribute = self.target.partition(":")
        if not (module and attribute):
            raise TypeError(f"component '{self.name}': target must be 'package.module:Class', not {self.target!r}")
        validate_class(self.options)
        if self.role is not None:
            if self.role not in list(Role):
                raise TypeError(f"component '{self.name}': role {self.role!r} is none of {', '.join(Role)}")
            object.__setattr__(self, "role", Role(self.role))
        object.__setattr__(self, "needs", frozenset(self.needs))
        object.__setattr__(self, "provides", frozenset(self.provides))
        if unknown := (self.needs | self.provides) - NEEDS.keys():  # type: ignore[operator]
            raise TypeError(f"component '{self.name}': {sorted(unknown)} not in the vocabulary {sorted(NEEDS)}")
        for preset, values in self.presets.items():
            self.options.parse(values, f"preset '{preset}'")

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and the names of its presets."""
        return (self.name, *self.presets)

    def task_of(self, ref: str) -> str | None:
        """The task that ``tasks`` has for a reference (without the source)."""
        return next((task for pattern, task in self.tasks.items() if fnmatchcase(ref, pattern)), None)

    @property
    def compares(self) -> bool:
        """Whether an evaluator compares the student with its teacher, so that it does not run on the teacher."""
        return "teacher.output" in self.needs

    def has(self, protocol: type) -> bool:
        """Whether its class satisfies an optional protocol, see :mod:`zsq.protocols`. Imports the class."""
        return issubclass(self.implementation(), protocol)

    def implementation(self) -> Any:
        """Import and return the class that ``target`` names."""
        from importlib import import_module

        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)
