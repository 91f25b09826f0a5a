"""Pairs of tensors that a task compares between student and teacher."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from zsq.types import View


def pairs(view: View) -> list[tuple[Tensor, Tensor]]:
    """The tensors that the task compares, student and teacher, in float32; the logits first."""
    assert view.student is not None and view.teacher is not None
    values = (view.task.values(trace.output) for trace in (view.student, view.teacher))
    return [(student.float(), teacher.float()) for student, teacher in zip(*values, strict=True)]


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor; one tensor keeps its bits."""
    first, *others = terms
    for term in others:
        first = first + term
    return first
