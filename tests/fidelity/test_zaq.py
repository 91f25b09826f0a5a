"""ZAQ through ``zsq`` against a plain loop: the same generator and student, bit for bit, with as many forward passes of each network."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import plain
import plain_zaq
import pytest
import torch
from zsq_zaq.synth import Zaq

from zsq.events import PhaseEnded
from zsq.testing import tiny_run

PAPER = plain_zaq.Settings(
    steps=12,
    alpha=0.1,
    beta=0.05,
    lr=0.01,
    weight_decay=0.0,
    milestones=(6,),
    generator_milestones=(2,),
    watched=4,
    summed=True,
    last=False,
)
RELEASED = plain_zaq.Settings(
    steps=18, alpha=1.0, beta=0.1, lr=0.05, weight_decay=5e-4, milestones=(6, 12), generator_milestones=(1, 2), scrm=True,
    train_batch_norm=True, watch=True,
)  # fmt: skip


def zsq_run(monkeypatch: pytest.MonkeyPatch, seed: int, s: plain_zaq.Settings) -> tuple[Any, Any, Counter[str]]:
    """The run's student, its synthesizer, and how often teacher, student and generator ran from the first batch to the last."""
    kept: list[Any] = []
    forwards: Counter[str] = Counter()
    prepare = Zaq.prepare

    def counting(self: Any, probe: Any) -> Any:
        kept.append(self)
        for who, module in (("teacher", probe.teacher.module), ("student", probe.student.module), ("generator", self.generator)):
            module.register_forward_hook(lambda *_, who=who: forwards.update([who]))
        return prepare(self, probe)

    def at_the_end_of_tuning(event: Any) -> None:
        if isinstance(event, PhaseEnded) and event.phase.startswith("tune"):
            at_end.update(forwards)

    at_end: Counter[str] = Counter()
    monkeypatch.setattr(Zaq, "prepare", counting)
    norm = "l1" if s.summed else "mean"
    features = {"name": "scrm"} if s.scrm else {"name": "crm"}
    synth = {"name": "zaq-released" if s.scrm else "zaq-paper", "channels": plain.CHANNELS, "latent_dim": plain.LATENT, "watch": s.watch}
    result = tiny_run(
        {
            "teacher": {
                "ref": f"py:{Path(plain_zaq.__file__)}:net",
                "shape": list(plain_zaq.SHAPE),
                "mean": [0.0] * 3,
                "std": [1.0] * 3,
                "classes": plain_zaq.CLASSES,
            },
            "synth": {**synth, "milestones": list(s.generator_milestones)},
            "quant": "uniform4",
            "calib": [{"name": "minmax", "batches": s.watched}] if s.watched else [],
            "loss": [{"name": "logit-l1", "norm": norm}, {**features, "weight": s.alpha, "last": s.last}],
            "tune": {
                "name": "finetune",
                "steps": s.steps,
                "optimizer": "sgd",
                "lr": s.lr,
                "range_lr": 0,
                "momentum": 0.9,
                "nesterov": False,
                "weight_decay": s.weight_decay,
                "schedule": "step",
                "milestones": list(s.milestones),
                "batch_norm": "train" if s.train_batch_norm else "frozen",
            },
            "run": {"batch_size": plain.BATCH, "seed": seed},
        },
        listeners=[at_the_end_of_tuning],
    )
    return result.student, kept[0], at_end


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_zaq(monkeypatch: pytest.MonkeyPatch, variant: str, seed: int) -> None:
    s = PAPER if variant == "paper" else RELEASED
    theirs = plain_zaq.play(plain_zaq.net(), plain.seeded(seed, "synth"), s)
    student, synth, forwards = zsq_run(monkeypatch, seed, s)
    for (name, mine), their in zip(synth.generator.named_parameters(), theirs.generator.parameters(), strict=True):
        assert torch.equal(mine, their), f"the generator's {name} differs by up to {(mine - their).abs().max():.2g}"
    for site, (point, their) in enumerate(zip(student.acts.values(), theirs.student.ranges, strict=True)):
        assert torch.equal(point.range[1], their), f"range {site} differs"
    own = {**dict(student.module.named_parameters()), **dict(student.module.named_buffers())}
    for name, tensor in (*theirs.student.net.named_parameters(), *theirs.student.net.named_buffers()):
        weighted = name.endswith("weight") and ".bn." not in name
        expected = plain.quantized_weight(tensor, 4) if weighted else tensor
        assert torch.equal(own[name], expected), f"the student's {name} differs by up to {(own[name] - expected).abs().max():.2g}"
    steps = (s.watched + s.steps - 1) // 5
    assert synth.steps == theirs.generator_steps == steps >= 3
    assert forwards["teacher"] == theirs.teacher_forwards == s.steps + steps
    assert forwards["student"] == theirs.student.forwards == s.watched + s.steps + steps
    assert forwards["generator"] == theirs.batches + steps == s.watched + s.steps + steps


@pytest.mark.parametrize("s", [PAPER, RELEASED], ids=["paper", "released"])
def test_the_game_moves_what_is_compared(s: plain_zaq.Settings) -> None:
    """Else the tests above would compare starting points."""
    teacher = plain_zaq.net()
    played = plain_zaq.play(teacher, plain.seeded(0, "synth"), s)
    for (name, before), after in zip(teacher.named_parameters(), played.student.net.parameters(), strict=True):
        assert not torch.equal(before, after) and torch.isfinite(after).all(), f"{name} stood still or went astray"
    moved = [not torch.equal(a, b) for a, b in zip(teacher.buffers(), played.student.net.buffers(), strict=True)]
    assert all(moved) if s.train_batch_norm else not any(moved)
    for name, parameter in played.generator.named_parameters():
        assert torch.isfinite(parameter).all(), name
