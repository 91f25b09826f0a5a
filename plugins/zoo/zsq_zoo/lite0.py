"""The trunk of EfficientNet-Lite0 (Tan & Le, 2019; the variant without squeeze-and-excitation, with ReLU6) up to stride 16.

Convolutions pad on both sides alike, so that a cell of a map looks at the same place in images of every size. Published weights
pad below and to the right only: they see the image one pixel further on, which is no matter after some training.
"""

from __future__ import annotations

from torch import Tensor, nn

#: Stage by stage: kernel, stride, expansion, channels, blocks. The published network goes on with (5, 2, 6, 192, 4), (3, 1, 6, 320, 1).
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3))
STEM = 32
EPS = 1e-3


def norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with the published epsilon, and a momentum that follows a short training."""
    return nn.BatchNorm2d(channels, eps=EPS, momentum=0.03)


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, BatchNorm and (with ``act``) ReLU6."""
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU6()] if act else []))


class Block(nn.Module):
    """Inverted bottleneck: widen, filter each channel, narrow; the input is added where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = conv(inputs, wide) if expansion != 1 else nn.Identity()
        self.depthwise = conv(wide, wide, kernel, stride, wide)
        self.project = conv(wide, outputs, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Trunk(nn.Module):
    """Input (N, 3, H, W); maps at strides 8 (40 channels) and 16 (112 channels)."""

    channels = (40, 112)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, STEM, 3, 2)
        stages, inputs = [], STEM
        for kernel, stride, expansion, outputs, blocks in STAGES:
            stage = []
            for index in range(blocks):
                stage.append(Block(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
            stages.append(nn.Sequential(*stage))
        self.stage1, self.stage2, self.stage3, self.stage4, self.stage5 = stages

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return middle, self.stage5(self.stage4(middle))
