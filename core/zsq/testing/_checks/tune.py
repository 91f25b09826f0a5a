"""Checks for tuners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsq.testing._kit import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zsq.types import Student, Teacher


def check_leaves_the_student_at_rest(case: Case) -> None:
    """Run to its end, it leaves a finite student in eval mode without gradients; its beats count up to their total."""
    from zsq.testing.world import make_teacher

    teacher = make_teacher()
    student = case.student(teacher)
    beats = list(_work(case, teacher, student))
    steps = [beat.step for beat in beats]
    assert steps == sorted(set(steps)), f"steps {steps} do not rise"
    assert all(1 <= beat.step <= beat.total for beat in beats), "a step passes the total"
    _is_left_usable(teacher, student)


def check_stops_on_close(case: Case) -> None:
    """Closed after its first beat, it leaves the student as usable as at its end."""
    from zsq.testing.world import make_teacher

    teacher = make_teacher()
    student = case.student(teacher)
    work = _work(case, teacher, student)
    next(work, None)
    work.close()  # type: ignore[attr-defined]
    _is_left_usable(teacher, student)


def _work(case: Case, teacher: Teacher, student: Student) -> Iterator[Any]:
    from zsq.testing.world import make_stream

    ctx = case.context(teacher, student, losses=True)
    return iter(case.build(ctx).fit(student, make_stream(teacher, student), ctx.objective))


def _is_left_usable(teacher: Teacher, student: Student) -> None:
    import torch

    from zsq.testing.world import make_batch

    assert not student.module.training, "left in train mode"
    assert not any(p.grad is not None for p in student.module.parameters()), "gradients left on the student"
    with torch.no_grad():
        assert torch.isfinite(student.module(make_batch(teacher).inputs)).all(), "the student's outputs are not finite"
