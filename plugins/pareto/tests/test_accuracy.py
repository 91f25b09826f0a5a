"""The real teacher on real images: bits where they matter beat the same number everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from zsq_pareto import ParetoOptions
from zsq_pareto.quantizer import Pareto

from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing.world import make_batch, make_context
from zsq.types import Student

DATA = Path(__file__).parents[4] / "shared" / "data" / "cifar10-test-5k.npz"


@pytest.mark.accuracy
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data/cifar10-test-5k.npz")
def test_three_bits_on_average_beat_three_bits_everywhere() -> None:
    zoo, source = pytest.importorskip("zsq_zoo"), pytest.importorskip("zsq_zoo.source")
    teacher = source.Zoo(zoo.ZooOptions(), make_context(Path())).load("resnet20-cifar10")
    teacher.module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    ctx = make_context(Path(), teacher=teacher).with_(workdir=None)
    file = np.load(DATA)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (teacher.inputs.mean, teacher.inputs.std))
    images = (torch.from_numpy(file["images"][:1000]).permute(0, 3, 1, 2) / 255 - mean) / std
    labels = torch.from_numpy(file["labels"][:1000])

    @torch.no_grad()
    def top1(student: Student) -> float:
        for point in student.points.values():
            point.freeze()
        return float((student.module(images).argmax(1) == labels).double().mean() * 100)

    chosen = Pareto(ParetoOptions(mean_bits=3, act_bits=None, candidates=(2, 3, 4, 6)), ctx).quantize(teacher, make_batch(teacher, 32))
    same = Uniform(UniformOptions(weight_bits=3, act_bits=None), ctx).quantize(teacher, None)
    assert chosen.details["mean_bits"] <= 3
    assert top1(chosen) > top1(same) + 1
