"""Checks for teacher sources."""

from __future__ import annotations

from zsq.testing import _exercise as exercise
from zsq.testing._kit import Case


def check_teacher_is_complete(case: Case) -> None:
    """A network in eval mode that runs on its input spec, with a fingerprint, and names that resolve."""
    import torch

    teacher = exercise.load(case)
    spec = teacher.inputs
    assert len(spec.mean) == len(spec.std) == spec.shape[0], f"{spec.shape[0]} channels, but mean {spec.mean} and std {spec.std}"
    assert not any(module.training for module in teacher.module.modules()), "the network is in train mode"
    with torch.no_grad():
        output = teacher.module(torch.zeros((2, *spec.shape)))
    logits = teacher.task.logits(output)
    assert len(logits) == 2 and torch.isfinite(logits).all(), "the network gives no finite output for two images"
    assert logits.shape[1] == teacher.task.classes, f"{logits.shape[1]} outputs for {teacher.task.classes} classes"
    assert teacher.fingerprint, "the teacher has no fingerprint"
    for path in (*teacher.taps, *teacher.blocks, *([teacher.head] if teacher.head else [])):
        teacher.module.get_submodule(path)


def check_fingerprint_is_of_the_weights(case: Case) -> None:
    """Loaded twice, the fingerprint is the same."""
    assert exercise.load(case).fingerprint == exercise.load(case).fingerprint
