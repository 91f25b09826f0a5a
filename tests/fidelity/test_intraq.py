"""IntraQ through ``zsq`` against a plain loop: the same images and the same student, bit for bit, by as many forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import net
import plain
import plain_intraq
import pytest
import torch
from plain_intraq import Calls, Values
from zsq_intraq.synth import Intraq

from zsq._builtin.finetune import Finetune
from zsq._builtin.ranges import Ema
from zsq.testing import tiny_run

WATCHED, STEPS, LR, MILESTONE = 4, 5, 0.002, 3


def zsq_run(monkeypatch: pytest.MonkeyPatch, seed: int, values: Values) -> tuple[Any, Intraq, dict[str, int]]:
    """The run's student and synthesizer; how often teacher and student ran from the first image to the last step."""
    synths: list[Intraq] = []
    forwards = {"teacher": 0, "student": 0}

    def counted(work: Any) -> Any:
        def counting(self: Any, first: Any, *rest: Any) -> Any:
            modules = {"teacher": self.ctx.teacher.module}
            if isinstance(self, Intraq):
                synths.append(self)
            else:
                modules["student"] = first.module
            counts = {who: Calls(module) for who, module in modules.items()}
            yield from work(self, first, *rest)
            for who, count in counts.items():
                count.handle.remove()
                forwards[who] += count.calls

        return counting

    for owner, name in ((Intraq, "prepare"), (Ema, "fit"), (Finetune, "fit")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    teacher = {"ref": f"py:{Path(net.__file__)}:net", "shape": list(net.SHAPE), "mean": [0.0] * 3, "std": [1.0] * 3, "classes": net.CLASSES}
    tune = {"name": "finetune", "steps": STEPS, "optimizer": "sgd", "lr": LR, "range_lr": 0, "momentum": 0.9, "nesterov": True,
            "weight_decay": 1e-4, "schedule": "step", "milestones": [MILESTONE]}  # fmt: skip
    synth = {"name": "intraq-paper", "images": values.batches * values.batch, "batch": values.batch, "iterations": values.iterations,
             "eps": values.eps, "lambda_l": values.lambda_l, "lambda_u": values.lambda_u, "eta": values.eta}  # fmt: skip
    result = tiny_run(
        {
            "teacher": teacher,
            "synth": synth,
            "quant": "uniform4",
            "calib": [{"name": "ema", "batches": WATCHED, "decay": 0.9}],
            "loss": [{"name": "kd", "weight": 20.0, "temperature": 20.0}, "ce"],
            "tune": tune,
            "run": {"batch_size": values.batch, "seed": seed},
        }
    )
    return result.student, synths[0], forwards


@pytest.mark.parametrize("seed", [0, 1])
def test_intraq(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    values = Values(lambda_l=0.1, lambda_u=0.3)  # narrow, so that both margins are felt
    theirs = plain_intraq.train(net.net(), seed, values, watched=WATCHED, steps=STEPS, lr=LR, milestone=MILESTONE)
    student, synth, forwards = zsq_run(monkeypatch, seed, values)
    assert torch.equal(synth.targets, theirs.labels)
    assert torch.equal(synth.pool, theirs.images), f"images differ by up to {(synth.pool - theirs.images).abs().max():.2g}"
    for site, (point, their) in enumerate(zip(student.acts.values(), theirs.student.ranges, strict=True)):
        assert torch.equal(point.range[1], their) and point.range[0] == 0, f"range {site} differs"
    own = {**dict(student.module.named_parameters()), **dict(student.module.named_buffers())}
    before = dict(net.net().named_parameters())
    for name, tensor in theirs.student.net.state_dict().items():
        weighted = name.endswith("weight") and not name.startswith("bn")
        expected = plain.quantized_weight(tensor, 4) if weighted else tensor
        assert torch.equal(own[name], expected), f"the student's {name} differs by up to {(own[name] - expected).abs().max():.2g}"
        assert name not in before or not torch.equal(before[name], tensor), f"{name} stood still"
    total = values.batches * values.iterations
    assert forwards["teacher"] == theirs.teacher_forwards == total + values.batches - 1 + STEPS
    assert forwards["student"] == theirs.student_forwards == WATCHED + STEPS
    assert 0 < theirs.cropped < total and theirs.margins > 0, "crops and margins have had their say"
