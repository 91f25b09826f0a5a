"""Pixels and normalised inputs, in both directions."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsq.types import InputSpec


def normalise(pixels: NDArray[np.uint8], spec: InputSpec) -> Tensor:
    """uint8 (N, H, W, C) to the teacher's input space: float32 (N, C, H, W) in channels_last."""
    mean, std = (torch.tensor(v, dtype=torch.float32) for v in (spec.mean, spec.std))
    return torch.from_numpy(pixels).float().div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2)


def pixels_of(images: torch.Tensor, inputs: InputSpec) -> torch.Tensor:
    """Normalised images (N, C, H, W) as whole pixel values from 0 to 255, float32."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (inputs.mean, inputs.std))
    return ((images.float().cpu() * std + mean).clamp(0, 1) * 255).round()


def pixel_limits(inputs: InputSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Black and white in the normalised input space, each (1, C, 1, 1)."""
    mean = torch.tensor(inputs.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(inputs.std, device=device).view(1, -1, 1, 1)
    return (0 - mean) / std, (1 - mean) / std


def patterns(spec: InputSpec, count: int, seed: int = 0) -> Tensor:
    """Random patterns (N, C, H, W) with the coarse and fine structure of photos, normalised: noise summed over octaves, then clipped to
    pixel values; each with a contrast and a colour of its own, so that a network gives many different answers."""
    rng, (channels, height, width) = torch.Generator().manual_seed(seed), spec.shape
    total, size = torch.zeros((count, *spec.shape)), 1
    while size <= max(height, width):
        noise = torch.randn((count, channels, min(size, height), min(size, width)), generator=rng)
        total += torch.nn.functional.interpolate(noise, (height, width), mode="bilinear" if size > 1 else "nearest") / math.sqrt(size)
        size *= 2
    contrast = torch.rand((count, 1, 1, 1), generator=rng) * 0.35 + 0.05
    pixels = (0.5 + contrast * total).clamp_(0, 1)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    return (pixels - mean) / std
