"""GDFQ with AIT through ``zsq`` against a plain loop: the same student and the same generator, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import net
import plain
import plain_ait
import pytest
import torch
from zsq_ait.inundation import Inundation
from zsq_gdfq.synth import GeneratorSynth

from zsq.grids import WeightPoint
from zsq.testing import tiny_run
from zsq.training import Probe

WARMUP, WATCHED, STEPS, MILESTONE = 3, 4, 6, 4
LR, RHO = 1e-2, 0.03


def zsq_run(monkeypatch: pytest.MonkeyPatch, seed: int, released: bool) -> dict[str, Any]:
    """Student and generator of a run, the factors of each step, and the forward passes of either network."""
    kept: dict[str, Any] = {"kappas": [], "teacher": 0, "student": 0}
    prepare, step, run, forward = GeneratorSynth.prepare, Inundation.step, Probe._run, WeightPoint.forward

    def keeping(self: Any, probe: Any) -> Any:
        kept["generator"] = self.generator
        return prepare(self, probe)

    def watching(self: Any, closure: Any = None) -> None:
        step(self, closure)
        kept["kappas"].append([self.kappa.tolist()[self.codes.order.index(i)] for i in range(3)])
        kept["forwards"] = {"teacher": kept["teacher"], "student": kept["student"]}  # reports run the teacher again afterwards

    def running(self: Any, module: Any, *inputs: Any) -> Any:
        kept["teacher"] += module is self.teacher.module
        return run(self, module, *inputs)

    def passing(self: Any, weight: Any) -> Any:
        kept["student"] += weight.dim() == 2  # the linear layer: once a forward
        return forward(self, weight)

    monkeypatch.setattr(GeneratorSynth, "prepare", keeping)
    monkeypatch.setattr(Inundation, "step", watching)
    monkeypatch.setattr(Probe, "_run", running)
    monkeypatch.setattr(WeightPoint, "forward", passing)
    shape = {"shape": list(net.SHAPE), "mean": [0.0] * 3, "std": [1.0] * 3, "classes": net.CLASSES}
    tune = {"name": "ait-released" if released else "ait-paper", "steps": STEPS, "lr": LR, "rho": RHO, "milestones": [MILESTONE]}
    result = tiny_run(
        {
            "teacher": {"ref": f"py:{Path(net.__file__)}:net", **shape},
            "synth": {"name": "gdfq", "latent_dim": plain.LATENT, "channels": plain.CHANNELS, "warmup": WARMUP, "bns_weight": 0.1},
            "quant": "uniform4",
            "calib": [{"name": "ema", "batches": WATCHED, "decay": 0.9}],
            "loss": [{"name": "kd", "temperature": 20.0, "reduction": "mean"}],
            "tune": tune,
            "eval": [],
            "run": {"batch_size": plain.BATCH, "seed": seed},
        }
    )
    return {**kept, "student_module": result.student.module, "acts": result.student.acts}


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_gdfq_with_ait(monkeypatch: pytest.MonkeyPatch, seed: int, released: bool) -> None:
    counted = {"teacher": 0, "student": 0}
    teacher, call = net.net(), plain.Student.__call__
    teacher.register_forward_hook(lambda *_: counted.update(teacher=counted["teacher"] + 1))

    def calling(self: Any, *inputs: Any, **named: Any) -> Any:
        counted["student"] += 1
        return call(self, *inputs, **named)

    monkeypatch.setattr(plain.Student, "__call__", calling)
    schedule = {"warmup": WARMUP, "watched": WATCHED, "steps": STEPS, "milestone": MILESTONE}
    theirs, inundated = plain_ait.train(
        teacher, plain.seeded(seed, "synth"), net.CLASSES, lr=LR, rho=RHO, upper=not released, **schedule
    )  # fmt: skip
    ours = zsq_run(monkeypatch, seed, released)

    kappas = [[weight.kappas[step] for weight in inundated] for step in range(STEPS)]
    assert ours["kappas"] == kappas
    assert max(map(max, kappas)) > 4, "no step was lengthened"
    for mine, their in zip(ours["generator"].parameters(), theirs.generator.parameters(), strict=True):
        assert torch.equal(mine, their)
    for point, their in zip(ours["acts"].values(), theirs.student.ranges or [], strict=True):
        assert torch.equal(point.range[1], their)
    own, before = dict(ours["student_module"].named_parameters()), dict(net.net().named_parameters())
    for name, tensor in theirs.student.net.named_parameters():
        weighted = name.endswith("weight") and not name.startswith("bn")
        assert torch.equal(own[name], plain.quantized_weight(tensor, 4) if weighted else tensor), name
        assert not torch.equal(tensor, before[name]), f"{name} stood still"
    assert counted == ours["forwards"] == {"teacher": WARMUP + WATCHED + STEPS, "student": WATCHED + STEPS}
