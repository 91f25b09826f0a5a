"""Checks for calibrators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsq.testing._kit import Case, Skip

if TYPE_CHECKING:
    from zsq.types import Student, Teacher


def check_works_on_a_foreign_quantizer(case: Case) -> None:
    """It calibrates points that have nothing beyond the ``QuantPoint`` protocol."""
    from zsq.testing.world import make_teacher, plain_student

    if set(case.component.needs) & {"pool", "graph", "weights.live", "rounding", "student.features"}:
        raise Skip("it needs more than ranges from the quantizer")
    teacher = make_teacher()
    student = plain_student(teacher)
    _fit(case, teacher, student)
    _is_left_usable(teacher, student)


def check_works_with_staged_and_alternating_synthesizers(case: Case) -> None:
    """It pulls from a pool made beforehand, and from a generator that moves as it pulls."""
    from zsq.testing.world import AlternatingNoise, StagedNoise, make_teacher
    from zsq.types import Cadence

    for synth in (StagedNoise, AlternatingNoise, lambda teacher: AlternatingNoise(teacher, Cadence(1, 2, "student", reuse=False))):
        teacher = make_teacher()
        student = case.student(teacher)
        _fit(case, teacher, student, synth(teacher))
        _is_left_usable(teacher, student)


def check_beats(case: Case) -> None:
    """It beats at least once; steps count from 1 and never pass the total."""
    from zsq.testing.world import make_teacher

    teacher = make_teacher()
    beats = _fit(case, teacher, case.student(teacher))
    assert beats, "it never beats"
    steps = [beat.step for beat in beats]
    assert steps[0] >= 1 and steps == sorted(set(steps)), f"steps {steps} do not rise from 1"
    assert all(beat.step <= beat.total for beat in beats), "a step passes the total"


def check_stops_on_close(case: Case) -> None:
    """Closed after its first beat, it leaves a usable student, in eval mode and not observing."""
    from zsq.testing.world import make_stream, make_teacher

    teacher = make_teacher()
    student = case.student(teacher)
    work = iter(case.build(case.context(teacher, student, losses=True)).fit(student, make_stream(teacher, student)))
    next(work)
    work.close()
    _is_left_usable(teacher, student)


def check_leaves_the_student_at_rest(case: Case) -> None:
    """Afterwards the student is in eval mode, observes nothing, and holds no gradient and no hook that was not there."""
    from zsq.testing.world import make_teacher, module_state

    teacher = make_teacher()
    student = case.student(teacher)
    before = module_state(student.module)
    _fit(case, teacher, student)
    _is_left_usable(teacher, student)
    after = module_state(student.module)
    hooks = [key for key in before if key.endswith("mode, hooks") and key in after and before[key][1] != after[key][1]]
    assert not hooks, f"hooks left in the student: {', '.join(hooks)}"
    assert not any(parameter.grad is not None for parameter in student.module.parameters()), "gradients left on the student"


def check_does_not_worsen_the_student(case: Case) -> None:
    """After min/max ranges at 8 bits, outputs come no further away from the teacher's than noise explains."""
    from zsq.testing.world import make_teacher

    teacher = make_teacher()
    student = case.student(teacher)
    before = _distance(teacher, student)
    _fit(case, teacher, student)
    after = _distance(teacher, student)
    assert after <= 1.1 * before + 0.05, f"relative distance to the teacher rose from {before:.4f} to {after:.4f}"


def _fit(case: Case, teacher: Teacher, student: Student, synth: Any = None) -> list[Any]:
    from zsq.testing.world import make_stream

    return list(case.build(case.context(teacher, student, losses=True)).fit(student, make_stream(teacher, student, synth)))


def _is_left_usable(teacher: Teacher, student: Student) -> None:
    import torch

    from zsq.testing.world import make_batch

    training = [path or "the student" for path, module in student.module.named_modules() if module.training]
    assert not training, f"left in train mode: {', '.join(training)}"
    assert not any(point.observing for point in student.acts.values()), "activation points still observe"
    with torch.no_grad():
        assert torch.isfinite(student.module(make_batch(teacher).inputs)).all(), "the student's outputs are not finite"


def _distance(teacher: Teacher, student: Student) -> float:
    import torch

    from zsq.testing.world import make_batch

    inputs = make_batch(teacher, 32, seed=9).inputs
    with torch.no_grad():
        ours = teacher.module(inputs)
        return float((student.module(inputs) - ours).square().mean() / ours.square().mean())
