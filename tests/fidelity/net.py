"""The teacher of the fidelity tests. Channels, classes, BatchNorm layers and batch are powers of two, so that it makes no
difference to the bits whether a mean is taken before or after a weight is applied."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 4
SHAPE = (3, 8, 8)


class Net(nn.Module):
    """Two convolutions with BatchNorm and ReLU, global pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def net() -> Net:
    """Always the same weights, with BatchNorm statistics of noise."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(11)
        module = Net()
        module.linear.weight.mul_(6)
        for norm in (module.bn1, module.bn2):
            norm.momentum = 1.0
            norm.weight.uniform_(0.5, 1.5)
        module(torch.randn(64, *SHAPE))
    return module.eval()
