"""Tiny networks, one for each task; random weights, BatchNorm statistics of noise."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsq.testing.teachers import settled

SIZE = 16


class Stages(nn.Module):
    """Two stages, the second at half the resolution of the first, and what is read from their sum."""

    def __init__(self, *outputs: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.heads = nn.ModuleList(nn.Conv2d(8, count, 1) for count in outputs)

    def forward(self, x: Tensor) -> Any:
        x = self.down(x)
        x = F.relu6(x + F.interpolate(self.deep(x), scale_factor=2.0, mode="bilinear", align_corners=False))
        return self.answer([head(x) for head in self.heads])

    def answer(self, maps: list[Tensor]) -> Any:
        """The output of the heads' maps (N, count, SIZE / 2, SIZE / 2)."""
        raise NotImplementedError


class Classes(Stages):
    """A class for every image."""

    def answer(self, maps: list[Tensor]) -> Tensor:
        return maps[0].mean((2, 3))


class Pixels(Stages):
    """A class for every pixel, as ``out`` of a mapping."""

    def answer(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return {"out": F.interpolate(maps[0], scale_factor=2.0, mode="bilinear", align_corners=False)}


class Boxes(Stages):
    """Scores and offsets of one prior in every cell."""

    def answer(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        return tuple(found.flatten(2).transpose(1, 2) for found in maps)


def classes(classes: int = 4) -> nn.Module:
    """A :class:`Classes`."""
    return _settled(Classes(classes))


def pixels(classes: int = 4) -> nn.Module:
    """A :class:`Pixels`."""
    return _settled(Pixels(classes))


def boxes(classes: int = 4) -> nn.Module:
    """A :class:`Boxes`."""
    return _settled(Boxes(classes, 4))


def _settled(network: nn.Module) -> nn.Module:
    return settled(network, torch.randn(32, 3, SIZE, SIZE))
