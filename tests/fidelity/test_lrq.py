"""LRQ through ``zsq`` against a plain loop: the same images, generator and student, bit for bit, for as many forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import net
import plain
import plain_lrq
import pytest
import torch
from torch import nn
from zsq_lrq.synth import Lrq

from zsq._run.engine import _Engine
from zsq.placement import Uniform
from zsq.testing import tiny_run

IMAGES, ITERATIONS, WARMUP, WATCHED, STEPS, LR = 24, 4, 3, 4, 6, 0.05


def zsq_run(monkeypatch: pytest.MonkeyPatch, seed: int, plan: plain_lrq.Plan) -> tuple[Any, Any, dict[str, int]]:
    """The run's student, its synthesizer, and the forward passes of teacher and student up to the end of tuning."""
    kept: list[Any] = []
    counts = {"teacher": 0, "student": 0}
    prepare, load, quantize, evaluate = Lrq.prepare, _Engine.load_teacher, Uniform.quantize, _Engine.evaluate
    hooks: list[Any] = []

    def counting(who: str, module: nn.Module) -> None:
        hooks.append(module.register_forward_hook(lambda *_: counts.update({who: counts[who] + 1})))

    def loading(self: Any) -> Any:
        teacher = load(self)
        counting("teacher", teacher.module)
        return teacher

    def quantizing(self: Any, *args: Any) -> Any:
        student = quantize(self, *args)
        counting("student", student.module)
        return student

    def keeping(self: Any, probe: Any) -> Any:
        kept.append(self)
        counts.update(teacher=0, student=0)
        return prepare(self, probe)

    def evaluating(self: Any, *args: Any) -> Any:
        for hook in hooks:
            hook.remove()
        return evaluate(self, *args)

    monkeypatch.setattr(Lrq, "prepare", keeping)
    monkeypatch.setattr(_Engine, "load_teacher", loading)
    monkeypatch.setattr(Uniform, "quantize", quantizing)
    monkeypatch.setattr(_Engine, "evaluate", evaluating)
    result = tiny_run(
        {
            "teacher": {
                "ref": f"py:{Path(net.__file__)}:net",
                "shape": list(net.SHAPE),
                "mean": [0.0] * 3,
                "std": [1.0] * 3,
                "classes": net.CLASSES,
            },
            "synth": {
                "name": "lrq",
                "train_data": plan.mode,
                "ama_sign": plan.sign,
                "attention": "block" if plan.block else "upsampling",
                "images": IMAGES,
                "batch": plain.BATCH,
                "iterations": ITERATIONS,
                "pixel_lr": plain_lrq.PIXEL_LR,
                "schedule": "plateau",
                "channels": plain.CHANNELS,
                "latent_dim": plain.LATENT,
                "warmup": WARMUP,
                "generator_steps": WARMUP + WATCHED if plan.mode == "stage1" else None,
                "bns_weight": plain_lrq.BNS_WEIGHT,
            },
            "quant": "uniform4",
            "calib": [{"name": "ema", "batches": WATCHED, "decay": 0.9}],
            "loss": ["ce", "dkd"],
            "tune": {
                "name": "finetune",
                "steps": STEPS,
                "optimizer": "sgd",
                "lr": LR,
                "range_lr": 0,
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 1e-4,
                "schedule": "constant",
            },
            "run": {"batch_size": plain.BATCH, "seed": seed},
        }
    )
    return result.student, kept[0], counts


def assert_identical(ours: tuple[Any, Any, dict[str, int]], theirs: plain_lrq.Trained) -> None:
    student, synth, counts = ours
    if theirs.images is not None:
        assert torch.equal(synth.stage1.targets, theirs.targets)
        assert torch.equal(synth.stage1.pool, theirs.images), f"images differ by {(synth.stage1.pool - theirs.images).abs().max():.2g}"
    for (name, mine), their in zip(synth.generator.named_parameters(), theirs.generator.parameters(), strict=True):
        assert torch.equal(mine, their), f"the generator's {name} differs by up to {(mine - their).abs().max():.2g}"
    for site, (point, their) in enumerate(zip(student.acts.values(), theirs.student.ranges, strict=True)):
        assert torch.equal(point.range[1], their) and point.range[0] == 0, f"range {site} differs"
    own = dict(student.module.named_parameters())
    for name, tensor in theirs.student.net.named_parameters():
        weighted = name.endswith("weight") and not name.startswith("bn")
        expected = plain.quantized_weight(tensor, 4) if weighted else tensor
        assert torch.equal(own[name], expected), f"the student's {name} differs by up to {(own[name] - expected).abs().max():.2g}"
    buffers = dict(student.module.named_buffers())
    for name, tensor in theirs.student.net.named_buffers():
        assert torch.equal(buffers[name], tensor), f"the student's {name} moved"
    assert {**counts, "generator": synth.steps} == theirs.counts


def plan(mode: str, sign: int = 1, block: bool = False) -> plain_lrq.Plan:
    return plain_lrq.Plan(mode, sign, block, IMAGES, ITERATIONS, WARMUP, WATCHED, STEPS, LR)


@pytest.mark.parametrize(("mode", "sign", "block"), [("stage1", 1, True), ("both", -1, False), ("generator", 1, False)])
@pytest.mark.parametrize("seed", [0, 1])
def test_lrq(monkeypatch: pytest.MonkeyPatch, seed: int, mode: str, sign: int, block: bool) -> None:
    theirs = plain_lrq.train(net.net(), net.CLASSES, seed, plan(mode, sign, block))
    assert_identical(zsq_run(monkeypatch, seed, plan(mode, sign, block)), theirs)


def test_number_of_forwards() -> None:
    """Stage 1: one per iteration, one per finished batch for the centres; one per generator step, shared with the student."""
    made = IMAGES // plain.BATCH * ITERATIONS + (IMAGES // plain.BATCH - 1)
    expected = {
        "stage1": (made + WARMUP + WATCHED + STEPS, WARMUP + WATCHED),
        "both": (made + WARMUP + WATCHED // 2 + STEPS, WARMUP + (WATCHED + STEPS) // 2),  # calibrators need no teacher for the pool
        "generator": (WARMUP + WATCHED + STEPS, WARMUP + WATCHED + STEPS),
    }
    for mode, (teacher, generator) in expected.items():
        counts = plain_lrq.train(net.net(), net.CLASSES, 0, plan(mode)).counts
        assert counts == {"teacher": teacher, "student": WATCHED + STEPS, "generator": generator}


def test_the_sign_of_the_margin_makes_other_images() -> None:
    """Else the margin would not be part of what is compared."""
    pools = [plain_lrq.train(net.net(), net.CLASSES, 0, plan("stage1", sign)).images for sign in (1, -1)]
    assert torch.equal(pools[0][: plain.BATCH], pools[1][: plain.BATCH]), "the first batch knows no centre"
    assert not torch.equal(pools[0], pools[1])
