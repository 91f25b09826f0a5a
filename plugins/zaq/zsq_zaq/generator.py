"""ZAQ's generators, noise to images: the authors' CIFAR generator for small images, a reconstructed one and one of ours for large images.

They have no eval mode: BatchNorm always uses the current batch. The last BatchNorm has no affine parameters, so images have mean 0 and
variance 1 per channel, in the teacher's normalised input space.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zsq_gdfq.generator import ImageStack, Labels
from zsq_gdfq.synth import LARGE

from zsq.errors import ZsqError
from zsq.types import InputSpec

_DEVIATION = 0.02
#: Initial contrast: pixels then deviate by half of the distance from grey to black or white, a little more than in photographs.
_CONTRAST = 0.8
#: Initial weight of an octave relative to the next coarser one; sizes of the squares of the octaves above the first stage.
_FALL, _COARSER = 0.75, (4, 2)


class SmallGenerator(nn.Module):
    """The authors' CIFAR generator, which is GDFQ's stack without labels: (N, latent_dim) to (N, C, H, W).

    Sides that are not multiples of 4 are rounded up, and the image is cropped.
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, channels: int, eps: float) -> None:
        super().__init__()
        self.size = shape[1:]
        self.stack = ImageStack((shape[0], *(4 * -(-side // 4) for side in self.size)), latent_dim, 1, channels, eps)

    def forward(self, noise: Tensor) -> Tensor:
        labels = Labels.single(torch.zeros(len(noise), dtype=torch.long, device=noise.device))  # GDFQ's stack needs them
        return crop(self.stack(noise, labels), self.size)


class InRange(nn.Module):
    """Keeps a generator's images between black and white: tanh of contrast * image + brightness, per colour, both learned.

    Ours. A teacher that maps pixels to -1 to 1 never saw images of variance 1: they have twice the contrast of photographs, and ranges
    calibrated on them are twice too wide.
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


class _Stages(nn.Module):
    """The layers that both large generators have: a linear layer to a sixteenth of each side, four stages that double it, a convolution.

    The first stage has four times ``channels``. Weights start with standard deviation 0.02; with ``random_norms`` BatchNorm's start
    with it too, around 1. Sides that are not multiples of 16 are rounded up, and the image is cropped.
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, channels: int, eps: float,
                 stage: Callable[[int, int], nn.Module], random_norms: bool) -> None:  # fmt: skip
        super().__init__()
        self.size = shape[1:]
        widths = self.widths = (4 * channels, 2 * channels, channels, channels // 2, channels // 2)
        self.grid = (widths[0], *(-(-side // 16) for side in self.size))
        self.stem = nn.Linear(latent_dim, widths[0] * self.grid[1] * self.grid[2])
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps, track_running_stats=False) for width in widths)
        self.stages = nn.ModuleList(stage(a, b) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], shape[0], 3, padding=1)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(module.weight, 0.0, _DEVIATION)
            elif random_norms and isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, _DEVIATION)

    def first(self, noise: Tensor) -> Tensor:
        """Noise (N, latent_dim) to the first stage's features."""
        return self.norms[0](self.stem(noise).view(-1, *self.grid).contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    def image(self, x: Tensor) -> Tensor:
        """The last stage's features to images of mean 0 and variance 1 per colour, not cropped yet."""
        return F.batch_norm(torch.tanh(self.last(x)).float(), None, None, training=True)


class LargeGenerator(_Stages):
    """Stages are transposed convolutions.

    ZAQ did not publish it. Reconstructed from the large generator of data-free adversarial distillation: ZAQ is said to have four
    times the channels of the CIFAR generator in the first stage, as that one has. The BatchNorm at the end is ours.
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, channels: int, eps: float) -> None:
        super().__init__(shape, latent_dim, channels, eps, lambda a, b: nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), random_norms=True)

    def forward(self, noise: Tensor) -> Tensor:
        x = self.first(noise)
        for double, norm in zip(self.stages, self.norms[1:], strict=True):
            x = F.leaky_relu(norm(double(x)), 0.2, inplace=True)
        return crop(self.image(x), self.size)


class WaveGenerator(_Stages):
    """Ours, for large images: every stage gets fresh noise for every position, and so does the image.

    The noise of each stage is added to its features with a learned weight per channel, and to the image with a learned weight per
    colour, coarse octaves stronger than fine ones. So images start as coloured waves, as smooth as photographs, and differ at every
    scale. A stage is interpolation and a convolution: the transposed convolutions of the large generator leave a grid (Odena et al.,
    2016), on which a student for pixels learns little. The plugin's README shows this on the zoo's street scenes.
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, channels: int, eps: float) -> None:
        super().__init__(shape, latent_dim, channels, eps, lambda a, b: nn.Conv2d(a, b, 3, padding=1, bias=False), random_norms=False)
        colours, widths = shape[0], self.widths
        #: Shape of the noise of each stage, for one image.
        self.noise_shapes = [(max(width, colours), *(side << stage for side in self.grid[1:])) for stage, width in enumerate(widths)]
        self.noise_weights = nn.ParameterList(torch.ones(1, width, 1, 1) for width in widths)
        octaves = len(widths) + len(_COARSER)
        self.waves = nn.ParameterList(torch.full((1, colours, 1, 1), _FALL**octave) for octave in range(octaves))

    def forward(self, noise: Tensor, *stage_noise: Tensor) -> Tensor:
        """Images from noise (N, latent_dim) and noise for each stage, (N, *shape) for the shapes in ``noise_shapes``."""
        x = self._add(self.first(noise), 0, stage_noise)
        for stage, (conv, norm) in enumerate(zip(self.stages, self.norms[1:], strict=True), 1):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = F.leaky_relu(self._add(norm(conv(x)), stage, stage_noise), 0.2, inplace=True)
        x = self.image(x)
        for weight, wave in zip(self.waves, _octaves(stage_noise, x.shape[1]), strict=True):
            x = x + F.interpolate(weight * wave, x.shape[2:], mode="bilinear", align_corners=False)
        return crop(x, self.size)

    def _add(self, x: Tensor, stage: int, stage_noise: tuple[Tensor, ...]) -> Tensor:
        """``x`` plus the weighted noise of a stage."""
        added: Tensor = x + self.noise_weights[stage] * stage_noise[stage][:, : x.shape[1]]
        return added


def _octaves(stage_noise: tuple[Tensor, ...], colours: int) -> list[Tensor]:
    """Noise of variance 1 for the image, from coarse to fine: the first stage's averaged over larger squares, then each stage's."""
    first = stage_noise[0][:, :colours]
    coarser = [n * F.avg_pool2d(first, n, ceil_mode=True, count_include_pad=False) for n in _COARSER]
    return [*coarser, *(noise[:, :colours] for noise in stage_noise)]


def make_generator(shape: tuple[int, ...], latent_dim: int, channels: int, eps: float, waves: bool = False) -> nn.Module:
    """The generator for a teacher's input shape; ``waves`` is for large images only.

    Raises:
        ZsqError: If the shape is not (channels, height, width).
    """
    if len(shape) != 3:
        shown = "x".join(map(str, shape))
        raise ZsqError(f"the generator makes images (channels, height, width), not {shown}", "the teacher's input shape", "--synth noise")
    large = WaveGenerator if waves else LargeGenerator
    kind = large if min(shape[1:]) >= LARGE else SmallGenerator
    return kind(shape, latent_dim, channels, eps)


def crop(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """The upper left part of ``size``; the images themselves where they already have this size."""
    return images if images.shape[2:] == torch.Size(size) else images[:, :, : size[0], : size[1]]
