"""The trunk of EfficientNet-Lite0 up to stride 16, shared by LiteLab and LiteDet.

Tan and Le, 2019; "Lite": no squeeze-and-excitation, ReLU6 throughout. It ends with the 11th block, at 112 channels.
"""

from __future__ import annotations

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
        y: Tensor = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


def trunk(channels: int) -> nn.ModuleList:
    """The blocks of ``BLOCKS`` in order, after a stem with ``channels`` output channels."""
    blocks = nn.ModuleList()
    for expansion, outputs, stride, kernel in BLOCKS:
        blocks.append(InvertedResidual(channels, outputs, expansion, stride, kernel))
        channels = outputs
    return blocks


def stages(stem: nn.Module, blocks: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """Outputs of the blocks in :data:`STAGES` for inputs (N, 3, H, W): (N, 24, H/4, W/4), (N, 40, H/8, W/8), (N, 112, H/16, W/16)."""
    x = stem(x)
    found = []
    for i, block in enumerate(blocks):
        x = block(x)
        if i in STAGES:
            found.append(x)
    return found
