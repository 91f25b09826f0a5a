"""Checks for tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsq.protocols import Classed, PartlyFloat
from zsq.testing._kit import Case, HasExample, Skip, applies_to

if TYPE_CHECKING:
    from zsq.types import Context


def check_outputs_and_distance(case: Case) -> None:
    """Logits have their classes in dimension 1 and are the first compared value; the distance of an output to itself is zero."""
    import torch

    ctx = case.context()
    task = case.build(ctx)
    assert task.name == case.component.name and task.classes >= 1
    first, second = _output(task, ctx), _output(task, ctx)
    logits, values = task.logits(first), task.values(first)
    assert len(logits) == 6 and logits.shape[1] == task.classes, f"6 images and {task.classes} classes give logits {tuple(logits.shape)}"
    assert torch.equal(values[0], logits) and all(len(value) == 6 for value in values), "values() does not begin with the logits"
    assert abs(float(task.distance(first, first))) < 1e-5, "the distance of an output to itself is not zero"
    assert float(task.distance(first, second)) > 0, "the distance of different outputs is not positive"


def check_probabilities(case: Case) -> None:
    """Where classes exclude each other, their probabilities are shaped as the logits and sum to one; answers have a unit."""
    import torch

    ctx = case.context()
    task = case.build(ctx)
    output = _output(task, ctx)
    assert task.unit and isinstance(task.unit, str), "unit must name, in the plural, what gets one answer each"
    found = task.probabilities(output)
    if found is None:
        raise Skip("its classes do not exclude each other")
    assert found.shape == task.logits(output).shape, f"probabilities {tuple(found.shape)} of logits {tuple(task.logits(output).shape)}"
    assert torch.allclose(found.sum(1), torch.ones_like(found.sum(1)), atol=1e-4), "probabilities do not sum to one"


def check_a_wrong_output_is_told(case: Case) -> None:
    """An output is right for as many images as it has answers to, and wrong for more."""
    import torch

    ctx = case.context()
    task = case.build(ctx)
    output = _output(task, ctx)
    assert not (said := task.wrong(output, torch.zeros(6, 3, 8, 8))), f"an output is said to be wrong: {said}"
    assert task.wrong(output, torch.zeros(7, 3, 8, 8)), "6 answers for 7 images pass"


def check_float_parts_are_words(case: Case) -> None:
    """``float_parts`` names every float part behind the network in words."""
    task = case.build(case.context())
    parts = task.float_parts if isinstance(task, PartlyFloat) else ()
    assert isinstance(parts, tuple) and all(isinstance(part, str) and part for part in parts), f"float_parts is {parts!r}"


@applies_to(lambda found: "classes" in found.component.provides)
def check_targets(case: Case) -> None:
    """It provides classes: targets come in the number asked for."""
    ctx = case.context()
    targets = case.build(ctx).targets(6, ctx.rng)
    assert len(targets) == 6, f"targets(6) gives {len(targets)}"


@applies_to(lambda found: "classes" not in found.component.provides)
def check_it_has_no_targets(case: Case) -> None:
    """It does not provide classes, so it has no ``targets`` method, because other components check for it."""
    assert not issubclass(case.implementation, Classed), "targets(n, rng) without providing 'classes'"


def _output(task: Any, ctx: Context) -> Any:
    """An output for 6 images of 3x8x8: the task's own ``example(n, shape, rng)`` if it has one, else one row of logits per image."""
    import torch

    if isinstance(task, HasExample):
        return task.example(6, (3, 8, 8), ctx.rng)
    return torch.randn((6, task.classes), generator=ctx.rng)
