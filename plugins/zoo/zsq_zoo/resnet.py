"""The CIFAR ResNets (He et al., 2016, section 4.2): 6n+2 layers, option-A shortcuts, 3 stages of 16/32/64 channels.

Parameter names are ``conv1 bn1 layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2} linear``, so widely used public weights files load unchanged.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and an option-A shortcut: stride by slicing, new channels by zero padding on both sides."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.pad = (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """``depth = 6 * num_blocks + 2`` layers; input (N, 3, 32, 32), output (N, classes)."""

    def __init__(self, num_blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, num_blocks, 1)
        self.layer2 = self._stage(16, 32, num_blocks, 2)
        self.layer3 = self._stage(32, 64, num_blocks, 2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
        first = Block(in_channels, channels, stride)
        return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(num_blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))
        return logits


def resnet20(classes: int = 10) -> CifarResNet:
    """20 layers, 0.27 M parameters."""
    return CifarResNet(3, classes)


def resnet32(classes: int = 10) -> CifarResNet:
    """32 layers, 0.46 M parameters."""
    return CifarResNet(5, classes)


def resnet44(classes: int = 10) -> CifarResNet:
    """44 layers, 0.66 M parameters."""
    return CifarResNet(7, classes)


def resnet56(classes: int = 10) -> CifarResNet:
    """56 layers, 0.85 M parameters."""
    return CifarResNet(9, classes)
