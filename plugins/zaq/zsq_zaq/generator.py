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
#: Contrast to begin with: pixels then deviate by half the way from grey to black or white, a little more than in photographs.
_CONTRAST = 0.8
#: Weight to begin with of an octave of waves, as a share of that of the next coarser; sizes of places above the first stage's.
_FALL, _COARSER = 0.75, (4, 2)


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
        grey = torch.full((1, inputs.shape[0], 1, 1), 0.5)
        self.middle: Tensor
        self.reach: Tensor
        self.register_buffer("middle", inputs.normalise(grey), persistent=False)
        self.register_buffer("reach", grey / torch.tensor(inputs.std).view(1, -1, 1, 1), persistent=False)
        self.contrast = nn.Parameter(torch.full_like(grey, _CONTRAST))
        self.brightness = nn.Parameter(torch.zeros_like(grey))

    def forward(self, *noise: Tensor) -> Tensor:
        images: Tensor = torch.tanh(self.contrast * self.generator(*noise) + self.brightness)
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


class WaveGenerator(nn.Module):
    """Ours, for large images: the large generator's stages, with fresh noise for every place at each of them, and from waves.

    The noise of each stage joins its features with a learned weight per channel, and the image with one per colour, coarse octaves
    stronger than fine ones: images begin as coloured waves, as smooth as photographs, and differ at every scale. Stages double by
    interpolation and a convolution: the transposed ones of the large generator leave a grid (Odena et al., 2016) on which a student
    for pixels learns little. On the zoo's street scenes a few dozen student steps showed it, see the plugin's README.
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, channels: int, eps: float) -> None:
        super().__init__()
        colours, self.size = shape[0], shape[1:]
        widths = (4 * channels, 2 * channels, channels, channels // 2, channels // 2)
        self.grid = (widths[0], *(-(-side // 16) for side in self.size))
        #: Shape of the noise of each stage, for one image.
        self.places = [(max(width, colours), *(side << stage for side in self.grid[1:])) for stage, width in enumerate(widths)]
        self.stem = nn.Linear(latent_dim, widths[0] * self.grid[1] * self.grid[2])
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps, track_running_stats=False) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], colours, 3, padding=1)
        self.shares = nn.ParameterList(torch.ones(1, width, 1, 1) for width in widths)
        octaves = len(widths) + len(_COARSER)
        self.waves = nn.ParameterList(torch.full((1, colours, 1, 1), _FALL**octave) for octave in range(octaves))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.normal_(module.weight, 0.0, _DEVIATION)

    def forward(self, noise: Tensor, *each: Tensor) -> Tensor:
        """Images from noise (N, latent_dim), and that of each stage, (N, *shape) for the shapes in ``places``."""
        x = self.stem(noise).view(-1, *self.grid).contiguous(memory_format=torch.channels_last)
        x = self._mixed(self.norms[0](x), 0, each)
        for stage, (conv, norm) in enumerate(zip(self.convs, self.norms[1:], strict=True), 1):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = F.leaky_relu(self._mixed(norm(conv(x)), stage, each), 0.2, inplace=True)
        x = torch.tanh(self.last(x))
        x = F.batch_norm(x.float(), None, None, training=True)
        for weight, wave in zip(self.waves, _octaves(each, x.shape[1]), strict=True):
            x = x + F.interpolate(weight * wave, x.shape[2:], mode="bilinear", align_corners=False)
        return cut(x, self.size)

    def _mixed(self, x: Tensor, stage: int, each: tuple[Tensor, ...]) -> Tensor:
        """``x`` and its share of a stage's noise."""
        mixed: Tensor = x + self.shares[stage] * each[stage][:, : x.shape[1]]
        return mixed


def _octaves(each: tuple[Tensor, ...], colours: int) -> list[Tensor]:
    """Noise of so many colours and variance 1, from coarse to fine: the first stage's in larger places, then that of the stages."""
    first = each[0][:, :colours]
    coarser = [n * F.avg_pool2d(first, n, ceil_mode=True, count_include_pad=False) for n in _COARSER]
    return [*coarser, *(own[:, :colours] for own in each)]


def make_generator(shape: tuple[int, ...], latent_dim: int, channels: int, eps: float, waves: bool = False) -> nn.Module:
    """The generator for a teacher's input shape; ``waves`` is for large images only.

    Raises:
        ZsqError: When the shape is not that of images.
    """
    if len(shape) != 3:
        shown = "x".join(map(str, shape))
        raise ZsqError(f"the generator makes images (channels, height, width), not {shown}", "the teacher's input shape", "--synth noise")
    large = WaveGenerator if waves else LargeGenerator
    kind = large if min(shape[1:]) >= LARGE else SmallGenerator
    return kind(shape, latent_dim, channels, eps)


def cut(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """The upper left part of ``size``; the images themselves where they have it."""
    return images if images.shape[2:] == torch.Size(size) else images[:, :, : size[0], : size[1]]
