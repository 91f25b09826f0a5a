"""A small segmentation network: the trunk of EfficientNet-Lite0 up to stride 16, and a decoder back to stride 4.

The trunk (Tan and Le, 2019; "Lite": no squeeze-and-excitation, ReLU6 throughout) is cut behind its 11th block, at 112 channels.
The decoder adds the features at strides 8 and 4 on the way up, as feature pyramids do (Lin et al., 2017). Every convolution but
the last has a BatchNorm. Inputs (N, 3, H, W) with H and W divisible by 16; output: logits (N, classes, H, W).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

#: Of every block: expansion, output channels, stride, kernel size.
BLOCKS = (
    (1, 16, 1, 3),
    (6, 24, 2, 3),
    (6, 24, 1, 3),
    (6, 40, 2, 5),
    (6, 40, 1, 5),
    (6, 80, 2, 3),
    (6, 80, 1, 3),
    (6, 80, 1, 3),
    (6, 112, 1, 5),
    (6, 112, 1, 5),
    (6, 112, 1, 5),
)
#: The last blocks of the stages at strides 4, 8 and 16.
STAGES = (2, 4, 10)
#: Where features are taken: the ends of the stages, and the decoder's last layer.
TAPS = ("blocks.2", "blocks.4", "blocks.10", "smooth4")


class ConvBn(nn.Module):
    """Convolution without bias, BatchNorm, and ReLU6 where asked for; keeps H and W at stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.ReLU6() if act else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.act is None else self.act(x)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1 without activation; added to its input where the shapes allow (Sandler et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = ConvBn(inputs, wide) if expansion > 1 else None
        self.depthwise = ConvBn(wide, wide, kernel, stride, groups=wide)
        self.project = ConvBn(wide, outputs, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


def trunk(channels: int) -> nn.ModuleList:
    """The blocks of ``BLOCKS`` one after the other, behind a stem of so many ``channels``."""
    blocks = nn.ModuleList()
    for expansion, outputs, stride, kernel in BLOCKS:
        blocks.append(InvertedResidual(channels, outputs, expansion, stride, kernel))
        channels = outputs
    return blocks


class LiteLab(nn.Module):
    """Logits (N, classes, H, W) of inputs (N, 3, H, W); 1.0 M parameters."""

    def __init__(self, classes: int = 11, width: int = 128) -> None:
        super().__init__()
        self.stem = ConvBn(3, 32, 3, 2)
        self.blocks = trunk(32)
        self.lateral4, self.lateral8, self.lateral16 = (ConvBn(BLOCKS[i][1], width, act=False) for i in STAGES)
        self.smooth8 = nn.Sequential(ConvBn(width, width, 5, groups=width), ConvBn(width, width))
        self.smooth4 = nn.Sequential(ConvBn(width, width, 3, groups=width), ConvBn(width, width))
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        stages = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in STAGES:
                stages.append(x)
        y = _twice(self.lateral16(stages[2]))
        y = self.smooth8(F.relu6(y + self.lateral8(stages[1])))
        y = self.smooth4(F.relu6(_twice(y) + self.lateral4(stages[0])))
        return F.interpolate(self.classifier(y), scale_factor=4.0, mode="bilinear", align_corners=False)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
