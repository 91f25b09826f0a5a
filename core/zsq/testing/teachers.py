"""Tiny teachers for tests: they contain every kind of site that a quantizer must find, and run in milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BLOCKS", "CLASSES", "HEAD", "SHAPE", "TAPS", "Block", "Plain", "Tiny", "plain", "settled", "tiny", "tiny32"]

#: Number of classes of the tiny teacher.
CLASSES = 4
#: Shape of its images (C, H, W).
SHAPE = (3, 8, 8)
#: Paths of its taps.
TAPS = ("bn1", "block.bn3")
#: Paths of its blocks.
BLOCKS = ("block",)
#: Path of its last layer.
HEAD = "linear"


class Block(nn.Module):
    """A depthwise and a pointwise convolution with a residual sum; one ReLU module used in two places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(y)) + x)  # type: ignore[no-any-return]


class Tiny(nn.Module):
    """Convolution, functional ReLU, one :class:`Block`, global pooling and a linear layer; takes any image of at least 4 x 4."""

    def __init__(self, classes: int = CLASSES, channels: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.block = Block(channels)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


class Plain(nn.Module):
    """A network without BatchNorm."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.conv1(x)).mean((2, 3)))  # type: ignore[no-any-return]


def tiny() -> nn.Module:
    """The tiny teacher: 4 classes, for inputs 3 x 8 x 8."""
    return _reproducible(Tiny, SHAPE)


def tiny32() -> nn.Module:
    """The same network with 10 classes and statistics of 3 x 32 x 32 inputs, which it declares: ``py:zsq.testing.teachers:tiny32``."""
    module = _reproducible(lambda: Tiny(10), (3, 32, 32))
    module.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # type: ignore[assignment]
    return module


def plain() -> nn.Module:
    """A tiny teacher without BatchNorm."""
    return _reproducible(Plain, SHAPE)


def _reproducible(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> nn.Module:
    """Build a network with fixed weights, BatchNorm statistics from images and varied outputs, without using the global generator."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = build()
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                child.weight.uniform_(0.5, 1.5)
                child.bias.uniform_(-0.2, 0.2)
                child.momentum = 1.0
            if isinstance(child, nn.Linear):
                child.weight.mul_(8)
        images = torch.randn(64, *shape)
        module.train()(images)
        for child in module.eval().modules():
            if isinstance(child, nn.Linear):
                child.bias.sub_(module(images).mean(0))
    return module.eval().requires_grad_(False)


@torch.no_grad()
def settled(network: nn.Module, inputs: Tensor) -> nn.Module:
    """``network`` in eval mode, with the BatchNorm statistics of ``inputs``, as after training on them."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    network.train()(inputs)
    return network.eval()
