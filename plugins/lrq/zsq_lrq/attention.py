"""The long-range generator: GDFQ's, with one block of large kernel attention (LRQ; the block is VAN's, arXiv 2202.09741)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from zsq_gdfq.generator import ImageStack, Labels


class LargeKernelAttention(nn.Module):
    """Maps x (N, channels, H, W) to x + proj_out(LKA(g) * g) with g = GELU(proj_in(x)).

    LKA decomposes a kernel of ``kernel`` x ``kernel``: depthwise (2d-1) x (2d-1), depthwise ceil(kernel/d) x ceil(kernel/d) with
    dilation d, then 1 x 1 over channels; no softmax, no sigmoid. 21 and 3 give 5 x 5 and 7 x 7, together 23 x 23. Every
    convolution has a bias and keeps height and width. Only VAN's attention: neither its feed-forward part nor its layer scale.

    Args:
        channels: In and out.
        kernel: Side of the decomposed kernel.
        dilation: d; ceil(kernel/d) must be odd.
    """

    def __init__(self, channels: int, kernel: int = 21, dilation: int = 3) -> None:
        super().__init__()
        local, wide = 2 * dilation - 1, -(-kernel // dilation)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.local = nn.Conv2d(channels, channels, local, padding=local // 2, groups=channels)
        self.wide = nn.Conv2d(channels, channels, wide, padding=dilation * (wide // 2), dilation=dilation, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.gelu(self.proj_in(x))
        out: Tensor = x + self.proj_out(gate * self.mix(self.wide(self.local(gate))))
        return out


class LongRangeStack(ImageStack):
    """GDFQ's stack with attention at half the image's resolution, after the first upsampling or the first block.

    Args:
        where: ``upsampling`` or ``block``; any other value leaves attention out.
        kernel: See :class:`LargeKernelAttention`.
        dilation: See :class:`LargeKernelAttention`.
    """

    def __init__(self, *args: Any, where: str, kernel: int = 21, dilation: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.where = where
        self.attention = LargeKernelAttention(self.grid[0], kernel, dilation) if where in ("upsampling", "block") else None

    def first(self, x: Tensor, labels: Labels) -> Tensor:
        if self.attention is not None and self.where == "upsampling":
            x = self.attention(x)
        x = super().first(x, labels)
        return self.attention(x) if self.attention is not None and self.where == "block" else x
