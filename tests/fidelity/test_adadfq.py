"""AdaDFQ through ``zsq`` against a plain loop: the same student and generator, bit for bit, in the same number of forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import net
import plain
import plain_adadfq
import pytest
from test_fidelity import assert_identical
from zsq_gdfq.synth import GeneratorSynth

from zsq import events
from zsq.testing import tiny_run

WARMUP, WATCHED, STEPS, LR, MILESTONE = 3, 4, 6, 0.05, 3
BITS = 3  # at 4 the student hardly ever fails where the teacher does not
ITERATIONS = WARMUP + WATCHED + STEPS
CONSTANTS = {
    "adadfq": {"alpha_ds": 0.2, "alpha_as": 0.1, "lo": 0.1, "hi": 0.8},
    "adasg": {"alpha_ds": 0.1, "alpha_as": 0.1, "lo": 0.3, "hi": 0.8},
}


def zsq_run(monkeypatch: pytest.MonkeyPatch, seed: int, synth: str) -> tuple[Any, Any, dict[str, int]]:
    """The run's student, its synthesizer, and the forward passes of teacher and student from warm-up to the last step."""
    kept: list[Any] = []
    calls = {"teacher": 0, "student": 0}
    counted: dict[str, int] = {}
    prepare = GeneratorSynth.prepare

    def counting(who: str) -> Any:
        def hook(*_: Any) -> None:
            calls[who] += 1

        return hook

    def keeping(self: Any, probe: Any) -> Any:
        kept.append(self)
        probe.teacher.module.register_forward_hook(counting("teacher"))
        probe.student.module.register_forward_hook(counting("student"))
        return prepare(self, probe)

    def listen(event: events.Event) -> None:
        if isinstance(event, events.PhaseEnded) and event.phase.startswith("tune"):
            counted.update(calls)

    monkeypatch.setattr(GeneratorSynth, "prepare", keeping)
    tune = {"name": "finetune", "steps": STEPS, "optimizer": "sgd", "lr": LR, "range_lr": 0, "momentum": 0.9, "nesterov": True}
    spec = {"shape": list(net.SHAPE), "mean": [0.0] * 3, "std": [1.0] * 3, "classes": net.CLASSES}
    result = tiny_run(
        {
            "teacher": {"ref": f"py:{Path(net.__file__)}:net", **spec},
            "synth": {"name": synth, "channels": plain.CHANNELS, "latent_dim": plain.LATENT, "warmup": WARMUP},
            "quant": f"uniform{BITS}",
            "calib": [{"name": "ema", "batches": WATCHED, "decay": 0.9}],
            "loss": ["logit-entropy"],
            "tune": {**tune, "weight_decay": 1e-4, "schedule": "step", "milestones": [MILESTONE]},
            "run": {"batch_size": plain.BATCH, "seed": seed},
        },
        listeners=[listen],
    )
    return result.student, kept[0], counted


def plain_run(seed: int, synth: str, **changed: float) -> plain_adadfq.Trained:
    rng = plain.seeded(seed, "synth")
    schedule = {"warmup": WARMUP, "watched": WATCHED, "steps": STEPS, "lr": LR, "milestone": MILESTONE}
    return plain_adadfq.train(net.net(), rng, bits=BITS, **schedule, **{**CONSTANTS[synth], **changed})


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("synth", ["adadfq", "adasg"])
def test_adadfq(monkeypatch: pytest.MonkeyPatch, seed: int, synth: str) -> None:
    student, generator, counted = zsq_run(monkeypatch, seed, synth)
    theirs = plain_run(seed, synth)
    assert_identical((student, generator), theirs)
    assert counted == {"teacher": theirs.teacher_forwards, "student": theirs.student.forwards}


def test_the_generator_step_adds_exactly_one_student_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        *_, adadfq = zsq_run(patch, 0, "adadfq")
    with monkeypatch.context() as patch:
        *_, gdfq = zsq_run(patch, 0, "gdfq")
    assert gdfq == {"teacher": ITERATIONS, "student": WATCHED + STEPS}
    assert adadfq == {"teacher": gdfq["teacher"], "student": gdfq["student"] + ITERATIONS}


def test_every_term_takes_part_in_what_is_compared() -> None:
    """Else the comparison would not see a slip in one of them; training moves everything."""
    trained, before = plain_run(0, "adadfq"), dict(net.net().named_parameters())
    for name, after in trained.student.net.named_parameters():
        assert not (before[name] == after).all(), f"{name} stood still"
    for name in ("alpha_ds", "alpha_as", "lo", "hi"):
        other = plain_run(0, "adadfq", **{name: 0.5})
        ours, theirs = trained.generator.embedding.weight, other.generator.embedding.weight
        assert not (ours == theirs).all(), f"{name} made no difference"
