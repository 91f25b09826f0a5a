"""A small segmentation network: the trunk of EfficientNet-Lite0 up to stride 16, and a decoder back to stride 4.

The decoder adds the features at strides 8 and 4, as feature pyramids do (Lin et al., 2017). Every convolution but
the last has a BatchNorm. Inputs (N, 3, H, W) with H and W divisible by 16; output: logits (N, classes, H, W).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zsq_zoo.lite0 import BLOCKS, STAGES, ConvBn, stages, trunk

#: Paths of the taps: the ends of the stages, and the decoder's last layer.
TAPS = ("blocks.2", "blocks.4", "blocks.10", "smooth4")


class LiteLab(nn.Module):
    """Logits (N, classes, H, W) of inputs (N, 3, H, W); 0.76 M parameters."""

    def __init__(self, classes: int = 11, width: int = 128) -> None:
        super().__init__()
        self.stem = ConvBn(3, 32, 3, 2)
        self.blocks = trunk(32)
        self.lateral4, self.lateral8, self.lateral16 = (ConvBn(BLOCKS[i][1], width, act=False) for i in STAGES)
        self.smooth8 = nn.Sequential(ConvBn(width, width, 5, groups=width), ConvBn(width, width))
        self.smooth4 = nn.Sequential(ConvBn(width, width, 3, groups=width), ConvBn(width, width))
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        at4, at8, at16 = stages(self.stem, self.blocks, x)
        y = _twice(self.lateral16(at16))
        y = self.smooth8(F.relu6(y + self.lateral8(at8)))
        y = self.smooth4(F.relu6(_twice(y) + self.lateral4(at4)))
        return F.interpolate(self.classifier(y), scale_factor=4.0, mode="bilinear", align_corners=False)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
