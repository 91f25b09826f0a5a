"""GDFQ and Qimera through ``zsq`` against plain loops: the same student and the same generator, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import net
import plain
import pytest
import torch
from torch import nn
from zsq_gdfq.synth import GeneratorSynth

from zsq.testing import tiny_run

WARMUP, WATCHED, STEPS, LR, MILESTONE = 3, 4, 6, 0.05, 3


def zsq_run(monkeypatch: pytest.MonkeyPatch, seed: int, synth: dict[str, Any], hard: bool) -> tuple[Any, Any]:
    """The run's student and its synthesizer."""
    kept: list[Any] = []
    prepare = GeneratorSynth.prepare

    def keeping(self: Any, probe: Any) -> Any:
        kept.append(self)
        return prepare(self, probe)

    monkeypatch.setattr(GeneratorSynth, "prepare", keeping)
    teacher = {
        "ref": f"py:{Path(net.__file__)}:net",
        "shape": list(net.SHAPE),
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
        "classes": net.CLASSES,
    }
    tune = {
        "name": "finetune",
        "steps": STEPS,
        "optimizer": "sgd",
        "lr": LR,
        "range_lr": 0,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": [MILESTONE],
    }
    result = tiny_run(
        {
            "teacher": teacher,
            "synth": {"channels": plain.CHANNELS, "warmup": WARMUP, "bns_weight": 0.1, **synth},
            "quant": "uniform4",
            "calib": [{"name": "ema", "batches": WATCHED, "decay": 0.9}],
            "loss": [{"name": "kd", "temperature": 20.0, "reduction": "mean"}, "ce" if hard else "soft-ce"],
            "tune": tune,
            "run": {"batch_size": plain.BATCH, "seed": seed},
        }
    )
    return result.student, kept[0]


def assert_identical(ours: tuple[Any, Any], theirs: plain.Trained) -> None:
    student, synth = ours
    for (name, mine), their in zip(synth.generator.named_parameters(), theirs.generator.parameters(), strict=True):
        assert torch.equal(mine, their), f"the generator's {name} differs by up to {(mine - their).abs().max():.2g}"
    for site, (point, their) in enumerate(zip(student.acts.values(), theirs.student.ranges, strict=True)):
        assert torch.equal(point.range[1], their) and point.range[0] == 0, f"range {site} differs"
    own = dict(student.module.named_parameters())
    for name, tensor in theirs.student.net.named_parameters():
        weighted = name.endswith("weight") and not name.startswith("bn")
        expected = plain.quantized_weight(tensor, theirs.student.bits) if weighted else tensor
        assert torch.equal(own[name], expected), f"the student's {name} differs by up to {(own[name] - expected).abs().max():.2g}"
    buffers = dict(student.module.named_buffers())
    for name, tensor in theirs.student.net.named_buffers():
        assert torch.equal(buffers[name], tensor), f"the student's {name} moved"


def plain_run(seed: int, build: Any) -> plain.Trained:
    return plain.train(
        net.net(), build, plain.seeded(seed, "synth"), warmup=WARMUP, watched=WATCHED, steps=STEPS, lr=LR, milestone=MILESTONE
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_gdfq(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    theirs = plain_run(seed, lambda: plain.GdfqGenerator(net.CLASSES))
    ours = zsq_run(monkeypatch, seed, {"name": "gdfq", "latent_dim": plain.LATENT}, hard=True)
    assert_identical(ours, theirs)
    assert ours[1].steps == theirs.teacher_forwards == WARMUP + WATCHED + STEPS


@pytest.mark.parametrize("seed", [0, 1])
def test_qimera(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rows = net.net().linear.weight.detach()
    theirs = plain_run(seed, lambda: plain.QimeraGenerator(rows, p=0.4, k=2, mapped=plain.LATENT))
    ours = zsq_run(monkeypatch, seed, {"name": "qimera-paper", "superpose": 0.4, "mixed": 2, "mapping_dim": plain.LATENT}, hard=False)
    assert_identical(ours, theirs)


def test_training_moves_what_is_compared() -> None:
    """Else the tests above would compare starting points."""
    teacher = net.net()
    trained = plain_run(0, lambda: plain.GdfqGenerator(net.CLASSES))
    for (name, before), after in zip(teacher.named_parameters(), trained.student.net.parameters(), strict=True):
        assert not torch.equal(before, after), f"{name} stood still"
    assert all(isinstance(module, nn.Module) for module in (trained.generator, trained.student.net))


@pytest.mark.parametrize(("classes", "weight"), [(10, 40.0), (100, 4.0), (1000, 0.4)])
def test_published_weight_of_the_divergence_is_400_over_the_classes(classes: int, weight: float) -> None:
    from zsq._builtin.losses import Kd
    from zsq._builtin.options import KdOptions
    from zsq.testing.world import make_teacher
    from zsq.types import Batch, Trace, View

    rng = torch.Generator().manual_seed(0)
    z_q, z_p = torch.randn(8, classes, generator=rng), torch.randn(8, classes, generator=rng)
    view = View(Batch(z_q), Trace(z_p), Trace(z_q), make_teacher().task)
    published = Kd(KdOptions(temperature=20.0, reduction="mean"), None)(view)
    batch_mean = nn.functional.kl_div((z_q / 20).log_softmax(1), (z_p / 20).softmax(1), reduction="batchmean")
    assert float(published / batch_mean) == pytest.approx(weight, rel=1e-4)
    half_variance = 0.5 * (z_p - z_q).var(1, unbiased=False).mean() / classes
    assert float(published) == pytest.approx(float(half_variance), rel=0.02)
