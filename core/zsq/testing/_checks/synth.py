"""Checks for synthesizers."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from zsq.protocols import Alternating, Paced, Staged
from zsq.testing import _exercise as exercise
from zsq.testing._kit import Case, Skip, applies_to


def check_batches_have_the_teachers_shape(case: Case) -> None:
    """``sample(n)`` gives n finite float32 inputs of the teacher's shape, for 1 and for 7, without a graph under ``no_grad``."""
    import torch

    from zsq.testing.world import make_teacher

    teacher = make_teacher()
    synth, _ = exercise.synth_stream(case, teacher)
    for n in (1, 7):
        with torch.no_grad():
            inputs = synth.sample(n).inputs
        assert tuple(inputs.shape) == (n, *teacher.inputs.shape), f"sample({n}) has shape {tuple(inputs.shape)}"
        assert inputs.dtype == torch.float32, f"inputs are {inputs.dtype}"
        assert torch.isfinite(inputs).all(), "inputs are not finite"
        assert not inputs.requires_grad, "inputs carry a graph under no_grad"


@applies_to(lambda found: "targets" in found.component.provides)
def check_targets_are_kept(case: Case) -> None:
    """It provides targets: every batch, sampled or from ``update``, carries valid ones."""
    from zsq.testing.world import make_teacher

    teacher = make_teacher()
    synth, stream = exercise.synth_stream(case, teacher)
    for batch in (synth.sample(5), next(stream)[0]):
        targets = batch.targets
        assert targets is not None and len(targets) == len(batch), "a batch without targets"
        if targets.dim() == 1:
            assert not targets.is_floating_point(), f"hard targets are {targets.dtype}"
            assert targets.min() >= 0 and targets.max() < teacher.task.classes, "targets out of range"
        else:
            assert targets.shape == (len(batch), teacher.task.classes), f"soft targets have shape {tuple(targets.shape)}"
            assert targets.min() >= 0 and (targets.sum(1) - 1).abs().max() < 1e-4, "soft targets are not distributions"


@applies_to(lambda found: "pool" in found.component.provides)
def check_pool_is_kept(case: Case) -> None:
    """It provides a pool: after ``prepare`` there are images in it."""
    from zsq.testing.world import make_teacher

    synth, _ = exercise.synth_stream(case, make_teacher())
    assert len(synth.pool) > 0, "the pool is empty after prepare"


def check_update_moves_only_its_own(case: Case) -> None:
    """A generator step changes the synthesizer's own tensors, but not the student and no gradients."""
    from zsq.testing.world import changed, digest, make_teacher, module_state

    _alternates(case)
    teacher = make_teacher()
    synth, stream = exercise.synth_stream(case, teacher)
    student = stream.student
    ranges = {path: digest(point.range) for path, point in student.acts.items()}
    own, network = _tensors(synth), module_state(student.module)
    _pull(stream)
    after = module_state(student.module)
    if isinstance(synth, Paced) and synth.cadence.observes:  # watching ranges is then what it asked for
        network.pop("values"), after.pop("values")
    else:
        assert ranges == {path: digest(point.range) for path, point in student.acts.items()}, "ranges of the student moved"
    assert not (keys := changed(network, after)), f"changed in the student: {', '.join(keys)}"
    assert own != _tensors(synth), "update changed none of the synthesizer's tensors"


def check_update_works_under_no_grad(case: Case) -> None:
    """A calibrator may pull under ``no_grad``: generator steps still happen."""
    import torch

    from zsq.testing.world import make_teacher

    _alternates(case)
    synth, stream = exercise.synth_stream(case, make_teacher())
    before = _tensors(synth)
    with torch.no_grad():
        batch = _pull(stream)
    assert not batch.inputs.requires_grad, "the batch carries a graph"
    assert before != _tensors(synth), "update changed none of the synthesizer's tensors"


def check_prepare_survives_close(case: Case) -> None:
    """Staged work that is stopped after its first beat leaves a synthesizer that samples."""
    from zsq.testing.world import make_teacher

    if not issubclass(case.implementation, Staged):
        raise Skip("it has no prepare")
    teacher = make_teacher()
    ctx = case.context(teacher, case.student(teacher), losses=True)
    synth = case.build(ctx)
    work = iter(synth.prepare(ctx.probe))
    next(work, None)
    if isinstance(work, Generator):
        work.close()
    assert len(synth.sample(3)) == 3


def _alternates(case: Case) -> None:
    if not issubclass(case.implementation, Alternating):
        raise Skip("it has no update")


def _pull(stream: Any) -> Any:
    """Pull batches until the generator has made a step, also if the student starts; returns the last batch."""
    for _ in range(stream.cadence.student + 1):
        batch, _ = next(stream)
    return batch


def _tensors(synth: Any) -> str:
    """Digest of every tensor and network that the synthesizer holds, directly or one container deep."""
    import torch

    from zsq.testing.world import digest

    held = [v for value in vars(synth).values() for v in (value if isinstance(value, (list, tuple)) else [value])]
    found = [v for v in held if isinstance(v, (torch.Tensor, torch.nn.Module))]
    if not found:
        raise Skip("it keeps no tensor or network as an attribute, so there is nothing to compare")
    return digest(found)
