"""Converts between uint8 images and inputs of a network; makes random test images."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsq.types import InputSpec


def from_uint8(pixels: NDArray[np.uint8], spec: InputSpec) -> Tensor:
    """uint8 images (N, H, W, C) to inputs of the network: float32 (N, C, H, W) in channels_last."""
    return spec.normalise(torch.from_numpy(pixels).float().div_(255).permute(0, 3, 1, 2))


def to_uint8(inputs: Tensor, spec: InputSpec) -> NDArray[np.uint8]:
    """Inputs (N, C, H, W) to uint8 images (N, H, W, C); values outside of black and white are clipped."""
    pixels = (spec.pixels(inputs.float().cpu()).clamp(0, 1) * 255).round()
    images: NDArray[np.uint8] = pixels.byte().permute(0, 2, 3, 1).numpy()
    return images


def patterns(spec: InputSpec, count: int, seed: int = 0) -> Tensor:
    """Random inputs (N, C, H, W) with coarse and fine structure as in photographs: a sum of noise at several resolutions, clipped to
    black and white. Each has its own contrast and colour, so that a network gives many different outputs."""
    rng, (channels, height, width) = torch.Generator().manual_seed(seed), spec.shape
    total, size = torch.zeros((count, *spec.shape)), 1
    while size <= max(height, width):
        noise = torch.randn((count, channels, min(size, height), min(size, width)), generator=rng)
        total += torch.nn.functional.interpolate(noise, (height, width), mode="bilinear" if size > 1 else "nearest") / math.sqrt(size)
        size *= 2
    contrast = torch.rand((count, 1, 1, 1), generator=rng) * 0.35 + 0.05
    return spec.normalise((0.5 + contrast * total).clamp_(0, 1))
