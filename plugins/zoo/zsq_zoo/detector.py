"""A small single-shot detector: EfficientNet-Lite0 trunk, a pyramid of three maps, one square prior per cell, a head for each map."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsq_zoo.lite0 import Trunk, conv

STRIDES = (8, 16, 32)
#: Side of the prior in each map, in pixels.
SIDES = (24.0, 48.0, 96.0)


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution of each channel, then a 1x1 one."""
    return nn.Sequential(conv(inputs, inputs, 3, stride, inputs), conv(inputs, outputs))


class Head(nn.Module):
    """One map (N, C, H, W) to ``outputs`` numbers per cell: (N, H * W, outputs)."""

    def __init__(self, channels: int, outputs: int, depth: int = 2) -> None:
        super().__init__()
        self.tower = nn.Sequential(*(separable(channels, channels) for _ in range(depth)))
        self.last = nn.Conv2d(channels, outputs, 1)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.tower(x)).flatten(2).transpose(1, 2)


class Detector(nn.Module):
    """Input (N, 3, H, W), sides divisible by 16; output logits (N, A, classes) and offsets (N, A, 4), before suppression."""

    def __init__(self, classes: int, channels: int = 80) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.lateral8, self.lateral16 = (conv(c, channels, act=False) for c in self.trunk.channels)
        self.smooth8, self.smooth16 = separable(channels, channels), separable(channels, channels)
        self.down32 = separable(channels, channels, 2)
        self.score8, self.score16, self.score32 = (Head(channels, classes) for _ in STRIDES)
        self.box8, self.box16, self.box32 = (Head(channels, 4) for _ in STRIDES)
        for head in (self.score8, self.score16, self.score32):
            nn.init.constant_(head.last.bias, -math.log(99))  # every class has a probability of 1 % at first

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle, deep = self.trunk(x)
        top = self.lateral16(deep)
        p8 = self.smooth8(self.lateral8(middle) + F.interpolate(top, scale_factor=2.0, mode="nearest"))
        p16 = self.smooth16(top)
        p32 = self.down32(p16)
        scores = torch.cat([self.score8(p8), self.score16(p16), self.score32(p32)], 1)
        offsets = torch.cat([self.box8(p8), self.box16(p16), self.box32(p32)], 1)
        return scores, offsets


def maps(height: int, width: int) -> list[tuple[int, int]]:
    """Rows and columns of the three maps."""
    return [(math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES]
