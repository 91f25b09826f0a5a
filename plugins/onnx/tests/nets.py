"""Small networks as students, quantized on noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing import world
from zsq.types import Student, Teacher

SHAPE = (3, 8, 8)


def student(teacher: Teacher, bits: int = 8, scheme: str = "deploy", **options: Any) -> Student:
    """Frozen, with ranges from 64 noise images."""
    values = {"weight_bits": bits, "act_bits": bits, "scheme": scheme, **options}
    made = Uniform(UniformOptions(**values), world.make_context(Path(), teacher=teacher)).quantize(teacher, None)
    with made.observing(), torch.no_grad():
        made.module(images(64, seed=1))
    made.freeze()
    return made


def images(n: int, seed: int = 9) -> Tensor:
    return torch.randn((n, *SHAPE), generator=torch.Generator().manual_seed(seed))


class Layers(nn.Module):
    """The layers given, one after another, then a mean and a linear layer."""

    def __init__(self, channels: int, *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))  # type: ignore[no-any-return]


class Shuffle(nn.Module):
    """Split, concatenation, channel shuffle with sizes taken in the forward, padding, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.relu(self.stem(x)).chunk(2, dim=1)
        right = self.branch(nn.functional.pad(right, (1, 1, 1, 1)))
        x = torch.cat((left, torch.relu(right)), 1)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        x = nn.functional.max_pool2d(x, 2)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and biases of the seed; BatchNorm as after training: statistics, and gammas of both signs, one of them zero."""
    rng, biases = (torch.Generator().manual_seed(number) for number in (seed, seed + 1))
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=rng) / parameter[0].numel() ** 0.5)
        else:
            parameter.data.copy_(0.4 * torch.rand(parameter.shape, generator=biases) - 0.2)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.copy_(torch.randn(norm.num_features, generator=rng))
            norm.weight.data[0] = 0
            norm.bias.data.copy_(torch.randn(norm.num_features, generator=rng))
            norm.running_mean.copy_(torch.randn(norm.num_features, generator=rng) * 0.3)  # type: ignore[union-attr]
            norm.running_var.copy_(torch.rand(norm.num_features, generator=rng) + 0.3)  # type: ignore[union-attr]
    return module.eval()


def teacher(module: nn.Module) -> Teacher:
    return world.make_teacher(randomised(module), shape=SHAPE)
