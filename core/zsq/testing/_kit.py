"""Finds the checks that apply to a component and runs them, as one parametrized test or one after another."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from zsq._component import Component, Role
from zsq.errors import ComponentError, nearest
from zsq.options import Options

if TYPE_CHECKING:
    from zsq._manager import Manager
    from zsq._plugin import Found
    from zsq.types import Context, Student, Teacher

Check = Callable[["Case"], None]

#: Modules of checks: those for every role, then those of one role, then resuming, then whole chains.
_COMMON, _CHAIN, _RESUME = (f"zsq.testing._checks.{name}" for name in ("common", "chain", "resume"))
_OF_ROLE = {
    Role.TEACHER: "teacher",
    Role.TASK: "task",
    Role.SYNTH: "synth",
    Role.QUANT: "quant",
    Role.CALIB: "calib",
    Role.LOSS: "loss",
    Role.TUNE: "tune",
    Role.EVAL: "eval",
    Role.EXPORT: "export",
    Role.LOG: "log",
    Role.READER: "reader",
    Role.STORE: "store",
}
_IN_PHASES = (Role.SYNTH, Role.CALIB, Role.TUNE)
_IN_CHAINS = (Role.SYNTH, Role.QUANT, Role.CALIB, Role.LOSS, Role.TUNE)


@runtime_checkable
class HasExample(Protocol):
    """A task that makes an output of its own for the checks: ``example(n, shape, rng)``."""

    def example(self, n: int, shape: tuple[int, ...], rng: Any) -> Any: ...


class Skip(Exception):
    """Raised by a check that has nothing to check here; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """The result of one check: ``passed``, ``failed`` or ``skipped``, with the reason, and the traceback of a failure."""

    check: str
    result: str
    reason: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Case:
    """One component under check.

    Args:
        found: The component, as the manager gave it.
        manager: Gives the components of other roles.
        folder: An empty folder to write into.
        settings: Option values beyond tiny defaults and preset.
        ref: Given to ``load`` of a teacher source; of a store, a place that students can be published to.
    """

    found: Found
    manager: Manager
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    ref: str = ""

    @property
    def component(self) -> Component:
        return self.found.component

    @property
    def role(self) -> Role:
        return self.found.role

    @property
    def values(self) -> dict[str, Any]:
        """Option values of this case: small counts, then the preset's, then the author's."""
        from zsq.testing._chains import tiny_values

        return {**tiny_values(self.component), **self.found.values, **self.settings}

    @cached_property
    def implementation(self) -> Any:
        return self.component.implementation()

    def options(self, **values: Any) -> Options:
        return self.component.options.parse({**self.values, **values}, self.component.name)

    def context(self, teacher: Teacher | None = None, student: Student | None = None, *, seed: int = 0, losses: bool = False) -> Context:
        """A context over the tiny teacher; with ``losses`` its objective is ``kd``."""
        from zsq.testing.world import make_context
        from zsq.training import Objective, Term

        objective = None
        if losses:
            kd = self.manager.get(Role.LOSS, "kd").component
            loss = kd.implementation()(kd.options(), make_context(self.folder))
            objective = Objective([Term("kd", loss, 1.0, frozenset(kd.needs))])
        given: dict[str, Any] = {"teacher": teacher, "student": student, "objective": objective, "manager": self.manager}
        return make_context(self.folder, seed=seed, **given)

    def build(self, ctx: Context, **values: Any) -> Any:
        """The implementation under check."""
        return self.implementation(self.options(**values), ctx)

    def student(self, teacher: Teacher, bits: int = 8) -> Student:
        """A student of the built-in quantizer, its ranges calibrated on noise: without them where a calibrator changes weights,
        which comes before any range."""
        uniform = self.manager.get(Role.QUANT, f"zsq/uniform{bits}")
        quantizer = uniform.component.implementation()(uniform.component.options.parse(uniform.values), self.context(teacher))
        student: Student = quantizer.quantize(teacher, None)
        if self.role is not Role.CALIB or "weights.live" not in self.component.needs:
            self.calibrate(teacher, student)
        return student

    def calibrate(self, teacher: Teacher, student: Student) -> None:
        """Give the student the ranges that built-in ``minmax`` sees in 64 noise images."""
        from zsq.testing.world import make_stream

        minmax = self.manager.get(Role.CALIB, "zsq/minmax").component
        calibrator = minmax.implementation()(minmax.options.parse({"batches": 4}), self.context(teacher, student))
        for _ in calibrator.fit(student, make_stream(teacher, student, batch_size=16)):
            pass


def checks_for(found: Found) -> dict[str, Check]:
    """Name to check, for every check that the component's role and declared needs call for. Imports no torch."""
    modules = [_COMMON]
    if found.role in _OF_ROLE:
        modules.append(f"zsq.testing._checks.{_OF_ROLE[found.role]}")
    if found.role in _IN_PHASES:
        modules.append(_RESUME)
    if found.role in _IN_CHAINS:
        modules.append(_CHAIN)
    checks: dict[str, Check] = {}
    for module in modules:
        for name, value in vars(import_module(module)).items():
            applies: Callable[[Found], bool] = getattr(value, "applies", lambda found: True)
            if name.startswith("check_") and applies(found):
                checks[name] = value
    return checks


def applies_to(condition: Callable[[Found], bool]) -> Callable[[Check], Check]:
    """Limit a check to components that meet ``condition``."""

    def mark(check: Check) -> Check:
        check.applies = condition  # type: ignore[attr-defined]
        return check

    return mark


def find(manager: Manager, name: str, role: str | None = None) -> Found:
    """The component ``name`` of whatever role has it.

    Raises:
        ComponentError: If no role has it, or several have and ``role`` does not say which.
    """
    if role is not None:
        return manager.get(Role(role), name)
    plain = name.rpartition("/")[2]
    roles = {found.role for found in manager.components() if plain in found.component.names}
    if not roles:
        known = {n for found in manager.components() for n in found.component.names}
        raise ComponentError(
            f"no component '{name}'", "conformance", nearest(plain, known) or "is its plugin installed? `zsq plugins list`"
        )
    if len(roles) > 1:
        raise ComponentError(f"'{name}' names components of several roles", "conformance", f"say which: role={' or '.join(sorted(roles))}")
    return manager.get(roles.pop(), name)


def conformance(name: str, options: Mapping[str, Any] | None = None, xfail: Mapping[str, str] | None = None, role: str | None = None,
                ref: str = "") -> Callable[..., None]:  # fmt: skip
    """A parametrized test of the component, one case per check: ``test_noise = conformance("noise")``.

    Args:
        name: Of the component; a preset's name or ``distribution/name`` will do.
        options: Values for its options, where the tiny defaults do not do.
        xfail: Check name to the reason why it is known to fail; it then has to fail.
        role: Where several roles have that name.
        ref: What ``load`` of a teacher source is called with; of a store, a place that students can be published to.

    Raises:
        ComponentError: If there is no such component.
        ValueError: If ``xfail`` names a check that is not run.
    """
    import pytest

    from zsq._manager import Manager

    manager = Manager.discover()
    found = find(manager, name, role)
    checks, reasons = checks_for(found), dict(xfail or {})
    if unknown := reasons.keys() - checks.keys():
        raise ValueError(f"conformance('{name}'): xfail names {sorted(unknown)}; the checks are {list(checks)}")
    marks = {check: [pytest.mark.xfail(reason=reason, strict=True)] for check, reason in reasons.items()}

    @pytest.mark.parametrize("check", [pytest.param(check, marks=marks.get(check, [])) for check in checks])
    def test(check: str, tmp_path: Path) -> None:
        try:
            checks[check](Case(found, manager, tmp_path, dict(options or {}), ref))
        except Skip as skip:
            pytest.skip(str(skip))

    test.__doc__ = f"Conformance of the {found.role.words} '{name}'."
    return test


def check_component(manager: Manager, found: Found, options: Mapping[str, Any] | None = None, ref: str = "") -> list[Outcome]:
    """Run every check without pytest, as ``zsq plugins check`` does; a failure is an outcome, not an exception."""
    outcomes = []
    for name, check in checks_for(found).items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(Case(found, manager, Path(folder), dict(options or {}), ref))
                outcomes.append(Outcome(name, "passed"))
            except Skip as skip:
                outcomes.append(Outcome(name, "skipped", str(skip)))
            except Exception as error:
                outcomes.append(Outcome(name, "failed", str(error) or type(error).__name__, traceback.format_exc()))
    return outcomes
