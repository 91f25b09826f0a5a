"""The conformance kit catches what it is there to catch: each check fails on a component that breaks just that promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zsq._manager import Manager
from zsq.errors import ComponentError
from zsq.testing import Case, FakeDist, check_component, checks_for, conformance
from zsq.testing._kit import find

ENTRY = """
from dataclasses import dataclass
from zsq import Component, Options, hookimpl, opt

@dataclass(frozen=True, kw_only=True)
class StdOptions(Options):
    std: float = opt(1.0, "Standard deviation.", gt=0)

SYNTHS = ["good", "global-random", "unshapely", "no-targets", "leaves-grad", "moves-student", "moves-teacher"]
SYNTHS += ["never-moves", "dies-when-closed", "forgets-state"]
CALIBS = ["silent", "stays-training", "keeps-observing", "ruins", "wants-more", "forgets-hooks"]
LOSSES = ["vector", "detached", "peeks", "offset", "infinite"]

def name(word):
    return "".join(part.capitalize() for part in word.split("-"))

@hookimpl
def zsq_synthesizers():
    for word in SYNTHS:
        yield Component(word, f"zsq_bad.impl:{name(word)}", StdOptions, "A synthesizer.", provides={"targets"})

@hookimpl
def zsq_calibrators():
    for word in CALIBS:
        yield Component(word, f"zsq_bad.impl:{name(word)}", summary="A calibrator.", needs={"act.range"})

@hookimpl
def zsq_losses():
    for word in LOSSES:
        yield Component(word, f"zsq_bad.impl:{name(word)}", summary="A loss.", needs={"teacher.output", "student.output"})
"""

IMPL = """
import torch
from zsq.types import Batch, Beat, Cadence, Update

class Good:
    cadence = Cadence()

    def __init__(self, options, ctx):
        self.options, self.ctx = options, ctx
        self.image = torch.zeros(ctx.teacher.inputs.shape, requires_grad=True)

    def prepare(self, probe):
        yield Beat(1, 2)
        yield Beat(2, 2)

    def sample(self, n):
        noise = torch.randn((n, *self.ctx.teacher.inputs.shape), generator=self.ctx.rng)
        return Batch(self.image + noise, torch.arange(n) % self.ctx.teacher.task.classes)

    def update(self, probe):
        batch = self.sample(4)
        view = probe(batch, {"teacher.output"})
        grad, = torch.autograd.grad(view.teacher.output.square().mean(), [self.image])
        self.image = (self.image - grad).detach().requires_grad_()
        return Update(batch, view.teacher)

class GlobalRandom(Good):
    def sample(self, n):
        return Batch(self.image + torch.randn((n, *self.ctx.teacher.inputs.shape)), torch.zeros(n, dtype=torch.long))

class Unshapely(Good):
    def sample(self, n):
        batch = super().sample(n)
        return Batch(batch.inputs[:1], batch.targets[:1])

class NoTargets(Good):
    def sample(self, n):
        return Batch(super().sample(n).inputs)

class LeavesGrad(Good):
    def update(self, probe):
        parameter = next(self.ctx.student.module.parameters())
        parameter.grad = torch.ones_like(parameter)
        return super().update(probe)

class MovesStudent(Good):
    def update(self, probe):
        with torch.no_grad():
            next(self.ctx.student.module.parameters()).add_(1)
        return super().update(probe)

class MovesTeacher(Good):
    def update(self, probe):
        self.ctx.teacher.module.train()
        return super().update(probe)

class NeverMoves(Good):
    def update(self, probe):
        return Update(self.sample(4))

class DiesWhenClosed(Good):
    ready = False

    def prepare(self, probe):
        yield Beat(1, 2)
        self.ready = True
        yield Beat(2, 2)

    def sample(self, n):
        assert self.ready, "not ready"
        return super().sample(n)

class Calib:
    def __init__(self, options, ctx):
        self.ctx = ctx

    def fit(self, student, stream):
        for step in (1, 2):
            next(stream)
            yield Beat(step, 2)

class Silent(Calib):
    def fit(self, student, stream):
        return iter(())

class StaysTraining(Calib):
    def fit(self, student, stream):
        student.module.train()
        yield Beat(1, 1)

class KeepsObserving(Calib):
    def fit(self, student, stream):
        for point in student.acts.values():
            point.observing = True
        yield Beat(1, 2)
        for point in student.acts.values():
            point.observing = False

class Ruins(Calib):
    def fit(self, student, stream):
        for point in student.acts.values():
            point.set_range(0.0, 0.01)
        yield Beat(1, 1)

class ForgetsState(Good):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

class WantsMore(Calib):
    def fit(self, student, stream):
        for point in student.acts.values():
            point.private_method()
        yield Beat(1, 1)

class ForgetsHooks(Calib):
    def fit(self, student, stream):
        student.module.register_forward_hook(lambda *a: None)
        yield Beat(1, 1)

class Vector:
    def __init__(self, options, ctx):
        pass

    def __call__(self, view):
        return (view.student.output - view.teacher.output).square().mean(1)

class Detached(Vector):
    def __call__(self, view):
        return super().__call__(view).mean().detach().requires_grad_()

class Peeks(Vector):
    def __call__(self, view):
        return super().__call__(view).mean() + 0 * view.batch.targets.sum()

class Offset(Vector):
    def __call__(self, view):
        return super().__call__(view).mean() + 1

class Infinite(Vector):
    def __call__(self, view):
        return (super().__call__(view).mean()).exp()
"""

BROKEN = {
    "global-random": ("check_same_seed_same_bits", "ctx.rng"),
    "unshapely": ("check_batches_have_the_teachers_shape", "shape"),
    "no-targets": ("check_targets_are_kept", "without targets"),
    "leaves-grad": ("check_update_moves_only_its_own", "changed in the student"),
    "moves-student": ("check_update_moves_only_its_own", "changed in the student"),
    "moves-teacher": ("check_leaves_the_world_alone", "changed in the teacher"),
    "never-moves": ("check_update_moves_only_its_own", "none of the synthesizer's tensors"),
    "dies-when-closed": ("check_prepare_survives_close", "not ready"),
    "silent": ("check_beats", "never beats"),
    "forgets-state": ("check_goes_on_where_it_was", "something else than without"),
    "stays-training": ("check_leaves_the_student_at_rest", "train mode"),
    "keeps-observing": ("check_stops_on_close", "observe"),
    "ruins": ("check_does_not_worsen_the_student", "rose"),
    "wants-more": ("check_works_on_a_foreign_quantizer", "private_method"),
    "forgets-hooks": ("check_leaves_the_student_at_rest", "hooks left"),
    "vector": ("check_value_is_a_finite_scalar", "shape"),
    "detached": ("check_gradient_reaches_what_it_reads", "no gradient reaches student.output"),
    "peeks": ("check_reads_only_its_needs", "'targets' without declaring"),
    "offset": ("check_zero_at_equality", "at equality"),
    "infinite": ("check_value_is_a_finite_scalar", "inf"),
}


@pytest.fixture
def manager(fake_dist: Callable[..., FakeDist]) -> Manager:
    return Manager.discover(distributions=[fake_dist("zsq-bad", ENTRY, files={"impl.py": IMPL}).distribution])


def _check(manager: Manager, name: str, check: str, folder: Path) -> None:
    found = find(manager, name)
    checks_for(found)[check](Case(found, manager, folder))


@pytest.mark.parametrize("name", BROKEN)
def test_check_catches(name: str, manager: Manager, tmp_path: Path) -> None:
    check, message = BROKEN[name]
    with pytest.raises((AssertionError, AttributeError), match=message):
        _check(manager, name, check, tmp_path)


SYNTH_CHECKS = sorted({BROKEN[name][0] for name in list(BROKEN)[: list(BROKEN).index("silent")]})


@pytest.mark.parametrize("check", SYNTH_CHECKS)
def test_check_passes_a_good_component(check: str, manager: Manager, tmp_path: Path) -> None:
    _check(manager, "good", check, tmp_path)


def test_check_component_gives_outcomes(manager: Manager) -> None:
    results = {outcome.check: outcome for outcome in check_component(manager, find(manager, "offset"))}
    assert results["check_zero_at_equality"].result == "failed" and "at equality" in results["check_zero_at_equality"].reason
    assert results["check_entry_module_is_light"].result == "passed"
    assert results["check_bad_options_are_refused"].result == "passed"


def test_unknown_component_is_named_with_the_nearest() -> None:
    with pytest.raises(ComponentError, match=r"no component 'nose'") as caught:
        conformance("nose")
    assert "noise" in caught.value.hint


def test_unknown_xfail_is_refused() -> None:
    with pytest.raises(ValueError, match="check_nothing"):
        conformance("noise", xfail={"check_nothing": "because"})


def test_xfail_and_skip_reach_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        from zsq.testing import conformance
        test_noise = conformance("noise", xfail={"check_options_are_described": "it passes, so this fails"})
        """
    )
    result = pytester.runpytest_inprocess("-k", "options or survives", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1, passed=1, skipped=1)


def test_entry_module_check_is_not_fooled(tmp_path: Path, fake_dist: Callable[..., FakeDist]) -> None:
    fake = fake_dist("zsq-heavy", "import torch\n" + ENTRY.replace("zsq_bad", "zsq_heavy"), files={"impl.py": IMPL})
    manager = Manager.discover(distributions=[fake.distribution])
    with pytest.raises(AssertionError, match="imports torch"):
        _check(manager, "good", "check_entry_module_is_light", tmp_path)
