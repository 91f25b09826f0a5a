"""Small networks for the tests of equalization, and students of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing.world import make_context, make_teacher
from zsq.training import full_precision
from zsq.types import Context, Student, Teacher


class Inverted(nn.Module):
    """Convolution, then expand, depthwise, project with a residual sum, then a head: a small MobileNetV2."""

    def __init__(self, act: Callable[[Tensor], Tensor] = F.relu6, bias: bool = False) -> None:
        super().__init__()
        self.act = act
        self.stem, self.bn0 = nn.Conv2d(3, 6, 3, padding=1, bias=bias), nn.BatchNorm2d(6)
        self.expand, self.bn1 = nn.Conv2d(6, 12, 1, bias=bias), nn.BatchNorm2d(12)
        self.depthwise, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=bias), nn.BatchNorm2d(12)
        self.project, self.bn3 = nn.Conv2d(12, 6, 1, bias=bias), nn.BatchNorm2d(6)
        self.head, self.bn4 = nn.Conv2d(6, 10, 1, bias=bias), nn.BatchNorm2d(10)
        self.linear = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn0(self.stem(x)))
        y = self.act(self.bn1(self.expand(x)))
        y = self.act(self.bn2(self.depthwise(y)))
        x = x + self.bn3(self.project(y))
        x = self.act(self.bn4(self.head(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def settle(module: nn.Module, spread: float = 1.0, shape: tuple[int, ...] = (3, 8, 8), betas: tuple[float, ...] = ()) -> nn.Module:
    """Ill-scaled channels, gammas of both signs, ``betas`` (or random ones), statistics as training leaves them on N(0, 1)."""
    torch.manual_seed(1)
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, (nn.Conv1d, nn.Conv2d)):
                child.weight.mul_(torch.exp(spread * torch.randn(len(child.weight))).view(-1, *(1,) * (child.weight.dim() - 1)))
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.affine:
                signs = torch.tensor([1.0, 1.0, -1.0]).repeat(99)[: len(child.weight)]
                child.weight.copy_(torch.exp(spread * torch.randn(len(signs))) * signs)
                child.bias.normal_()
                child.bias[: len(betas)] = torch.tensor(betas)[: len(child.bias)]
                child.momentum = None
        module.train()(torch.randn(256, *shape))
    return module.eval().requires_grad_(False)


def teacher_of(module: nn.Module, shape: tuple[int, ...] = (3, 8, 8)) -> Teacher:
    return make_teacher(module, shape=shape)


def student_of(teacher: Teacher, **options: Any) -> Student:
    chosen = {"per_channel": False, **options}
    return Uniform(UniformOptions(**chosen), make_context(Path(), teacher=teacher)).quantize(teacher, None)


def context(teacher: Teacher, log: Callable[[str], None] = lambda text: None) -> Context:
    return make_context(Path(), teacher=teacher).with_(log=log)


def calibrate(kind: Any, options: Any, student: Student, teacher: Teacher, stream: Any = None) -> list[Any]:
    return list(kind(options, context(teacher)).fit(student, stream))


@torch.no_grad()
def in_float(student: Student, inputs: Tensor) -> Tensor:
    with full_precision(student):
        return student.module(inputs)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative error over all values."""
    return float((ours - theirs).norm() / theirs.norm())
