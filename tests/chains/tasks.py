"""Tiny networks for tasks other than classification; random weights, BatchNorm statistics of noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 16


class Pixels(nn.Module):
    """A class for every pixel: two stages, interpolated and added, as ``out`` of a mapping."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.classifier = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.down(x)
        y = F.interpolate(self.deep(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return {"out": F.interpolate(self.classifier(F.relu6(x + y)), scale_factor=2.0, mode="bilinear", align_corners=False)}


def pixels(classes: int = 4) -> nn.Module:
    """A :class:`Pixels`."""
    return _settled(Pixels(classes))


def _settled(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(32, 3, SIZE, SIZE))
    return network.eval()
