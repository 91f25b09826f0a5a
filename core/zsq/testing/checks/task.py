"""Checks for tasks."""

from __future__ import annotations

from zsq.testing.kit import Case


def check_targets_and_distance(case: Case) -> None:
    """Targets come in the number asked for; the distance of an output to itself is zero, to another one positive."""
    import torch

    ctx = case.context()
    task = case.build(ctx)
    assert task.name and task.classes >= 1
    targets = task.targets(6, ctx.rng)
    assert len(targets) == 6, f"targets(6) gives {len(targets)}"
    first, second = torch.randn((2, 6, task.classes), generator=ctx.rng)
    assert task.logits(first).shape[0] == 6
    assert abs(float(task.distance(first, first))) < 1e-5, "the distance of an output to itself is not zero"
    assert float(task.distance(first, second)) > 0, "the distance of different outputs is not positive"
