"""A small single-shot detector: the trunk of EfficientNet-Lite0 up to stride 16, a pyramid of three maps, a head for each.

Every cell of a map has one square prior (SSD has several; Liu et al., 2016), the map at stride 8 also gets features of stride 16 (Lin
et al., 2017), and every convolution but the last of a head has a BatchNorm. Inputs (N, 3, H, W) with H and W divisible by 16; output:
scores (N, A, classes), one sigmoid per class, and offsets (N, A, 4) of all cells, before non-maximum suppression.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsq.errors import library
from zsq_zoo.lite0 import BLOCKS, STAGES, ConvBn, stages, trunk

if TYPE_CHECKING:
    from zsq_detect.decoding import Decoding

STRIDES = (8, 16, 32)
#: Side of the prior in each map, in pixels.
SIDES = (24.0, 48.0, 96.0)
#: The maps that feed the heads.
TAPS = ("smooth8", "smooth16", "down32")


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution of each channel, then a 1x1 one."""
    return nn.Sequential(ConvBn(inputs, inputs, 3, stride, inputs), ConvBn(inputs, outputs))


class Head(nn.Module):
    """One map (N, C, H, W) to ``outputs`` numbers per cell: (N, H * W, outputs); ``start`` is their initial value."""

    def __init__(self, channels: int, outputs: int, depth: int = 2, start: float = 0.0) -> None:
        super().__init__()
        self.tower = nn.Sequential(*(separable(channels, channels) for _ in range(depth)))
        self.last = nn.Conv2d(channels, outputs, 1)
        nn.init.normal_(self.last.weight, std=0.01)
        assert self.last.bias is not None
        nn.init.constant_(self.last.bias, start)

    def forward(self, x: Tensor) -> Tensor:
        numbers: Tensor = self.last(self.tower(x)).flatten(2).transpose(1, 2)
        return numbers


class LiteDet(nn.Module):
    """Scores (N, A, classes) and offsets (N, A, 4) of inputs (N, 3, H, W); 0.8 M parameters."""

    #: Computes boxes from the output, for inputs of one size.
    decoding: Decoding | None = None

    def __init__(self, classes: int = 3, width: int = 80) -> None:
        super().__init__()
        self.stem = ConvBn(3, 32, 3, 2)
        self.blocks = trunk(32)
        self.lateral8, self.lateral16 = (ConvBn(BLOCKS[i][1], width, act=False) for i in STAGES[1:])
        self.smooth8, self.smooth16 = separable(width, width), separable(width, width)
        self.down32 = separable(width, width, 2)
        rare = -math.log(99)  # every class has a probability of 1 % at first
        self.score8, self.score16, self.score32 = (Head(width, classes, start=rare) for _ in STRIDES)
        self.box8, self.box16, self.box32 = (Head(width, 4) for _ in STRIDES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, at8, at16 = stages(self.stem, self.blocks, x)
        top = self.lateral16(at16)
        p8 = self.smooth8(self.lateral8(at8) + F.interpolate(top, scale_factor=2.0, mode="nearest"))
        p16 = self.smooth16(top)
        p32 = self.down32(p16)
        scores = torch.cat([self.score8(p8), self.score16(p16), self.score32(p32)], 1)
        return scores, torch.cat([self.box8(p8), self.box16(p16), self.box32(p32)], 1)


def decoding(height: int, width: int, where: str) -> Decoding:
    """The object that computes boxes from the output, for inputs of this size.

    Raises:
        ComponentError: If zsq-detect is missing.
    """
    boxes, found = (library(f"zsq_detect.{part}", "zsq-zoo[detect]", where) for part in ("boxes", "decoding"))
    cells = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES]
    parts = [boxes.grid(size, stride, side) for size, stride, side in zip(cells, STRIDES, SIDES, strict=True)]
    made: Decoding = found.Decoding(boxes.Priors(torch.cat(parts)))
    return made
