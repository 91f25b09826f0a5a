"""What a task compares of student and teacher, as pairs of tensors."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from zsq.types import View


def pairs(view: View) -> list[tuple[Tensor, Tensor]]:
    """What the task compares, of student and teacher, in float32: the logits first."""
    assert view.student is not None and view.teacher is not None
    values = (view.task.values(trace.output) for trace in (view.student, view.teacher))
    return [(student.float(), teacher.float()) for student, teacher in zip(*values, strict=True)]


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """The sum of at least one; of one, the same bits."""
    first, *others = terms
    for term in others:
        first = first + term
    return first
