"""Noise to images: the authors' CIFAR generator for small images, a reconstructed one for large ones.

Neither has an eval mode: BatchNorm uses the present batch, always, and ends the generator without affine parameters, so that images
come out with mean 0 and variance 1 per channel, in the teacher's normalised input space.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zsq_gdfq.generator import ImageStack, Labels

from zsq.errors import ZsqError
from zsq.types import InputSpec

#: From this side length on, the large generator.
LARGE = 64
_DEVIATION = 0.02
#: Contrast to begin with: pixels then deviate by a quarter of the way from black to white, about as in photographs.
_CONTRAST = 0.6


class SmallGenerator(nn.Module):
    """The authors' CIFAR generator, which is GDFQ's stack without labels: (N, latent_dim) to (N, C, H, W).

    Sides that are no multiple of 4 are rounded up, and the image cut.
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, channels: int, eps: float) -> None:
        super().__init__()
        self.size = shape[1:]
        self.stack = ImageStack((shape[0], *(4 * -(-side // 4) for side in self.size)), latent_dim, 1, channels, eps)

    def forward(self, noise: Tensor) -> Tensor:
        labels = Labels.single(torch.zeros(len(noise), dtype=torch.long, device=noise.device))  # GDFQ's plain BatchNorm asks for them
        return cut(self.stack(noise, labels), self.size)


class InRange(nn.Module):
    """Images of a generator between black and white: tanh of contrast * image + brightness, per colour, both learned.

    Ours. A teacher whose inputs are not scaled by the deviation of its data never saw images of variance 1: they have twice the
    contrast of photographs where pixels are mapped to -1 to 1, and ranges calibrated on them are twice too wide.
    """

    def __init__(self, generator: nn.Module, inputs: InputSpec) -> None:
        super().__init__()
        self.generator = generator
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (inputs.mean, inputs.std))
        self.register_buffer("middle", (0.5 - mean) / std, persistent=False)
        self.register_buffer("reach", 0.5 / std, persistent=False)
        self.contrast = nn.Parameter(torch.full_like(mean, _CONTRAST))
        self.brightness = nn.Parameter(torch.zeros_like(mean))

    def forward(self, noise: Tensor) -> Tensor:
        images: Tensor = torch.tanh(self.contrast * self.generator(noise) + self.brightness)
        return images * self.reach + self.middle


class LargeGenerator(nn.Module):
    """Linear layer to a sixteenth of each side, four transposed convolutions that double it, a convolution, tanh.

    Not published by ZAQ. Reconstructed after the large generator of data-free adversarial distillation, whose first stage has four
    times the channels of the CIFAR generator's, as ZAQ is said to have; the BatchNorm at the end is ours. Weights start with
    deviation 0.02, BatchNorm's about 1. Sides that are no multiple of 16 are rounded up, and the image cut.
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, channels: int, eps: float) -> None:
        super().__init__()
        self.size = shape[1:]
        widths = (4 * channels, 2 * channels, channels, channels // 2, channels // 2)
        self.grid = (widths[0], *(-(-side // 16) for side in self.size))
        self.stem = nn.Linear(latent_dim, widths[0] * self.grid[1] * self.grid[2])
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps, track_running_stats=False) for width in widths)
        self.doubling = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], shape[0], 3, padding=1)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(module.weight, 0.0, _DEVIATION)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, _DEVIATION)

    def forward(self, noise: Tensor) -> Tensor:
        x = self.stem(noise).view(-1, *self.grid).contiguous(memory_format=torch.channels_last)
        x = self.norms[0](x)
        for double, norm in zip(self.doubling, self.norms[1:], strict=True):
            x = F.leaky_relu(norm(double(x)), 0.2, inplace=True)
        x = torch.tanh(self.last(x))
        return cut(F.batch_norm(x.float(), None, None, training=True), self.size)


def make_generator(shape: tuple[int, ...], latent_dim: int, channels: int, eps: float) -> nn.Module:
    """The generator for a teacher's input shape.

    Raises:
        ZsqError: When the shape is not that of images.
    """
    if len(shape) != 3:
        shown = "x".join(map(str, shape))
        raise ZsqError(f"the generator makes images (channels, height, width), not {shown}", "the teacher's input shape", "--synth noise")
    kind = LargeGenerator if min(shape[1:]) >= LARGE else SmallGenerator
    return kind(shape, latent_dim, channels, eps)


def cut(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """The upper left part of ``size``; the images themselves where they have it."""
    return images if images.shape[2:] == torch.Size(size) else images[:, :, : size[0], : size[1]]
