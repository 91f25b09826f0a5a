"""Images by their Fourier coefficients, scaled as in photographs: what ``basis=spectrum`` optimises instead of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Spectrum:
    """Coefficients of a batch whose images are real: ``images()`` is what they stand for, differentiable in ``waves``.

    A coefficient of frequency f (cycles per pixel) counts 1 / f, no frequency more than that of one wave over the longer side.
    Photographs have such a spectrum. An optimizer that moves every coefficient alike (Adam) then draws large shapes first, and
    what is left over of the noise is faint; moved alike, pixels keep it, and give textures that no real image has. The idea is
    from feature visualization (Olah et al., Distill 2017); it is not in ZeroQ's paper.

    Args:
        noise: (N, C, H, W), white, of variance 1; images start as the same noise with the spectrum of photographs, of variance 1.

    ``waves`` is a leaf, (N, C, H, W // 2 + 1, 2): real and imaginary parts, of variance 1 at the start.
    """

    def __init__(self, noise: Tensor) -> None:
        self.size = noise.shape[-2], noise.shape[-1]
        height, width = self.size
        rows, columns = torch.fft.fftfreq(height, device=noise.device), torch.fft.rfftfreq(width, device=noise.device)
        frequency = (rows[:, None].square() + columns.square()).sqrt().clamp_min(1 / max(height, width))
        whole = (rows[:, None].square() + torch.fft.fftfreq(width, device=noise.device).square()).sqrt().clamp_min(1 / max(height, width))
        self.scale = math.sqrt(0.5) / (frequency * whole.reciprocal().square().mean().sqrt())
        waves = torch.view_as_real(torch.fft.rfft2(noise.float(), norm="ortho")) * math.sqrt(2)
        self.waves = waves.contiguous().requires_grad_()

    def images(self, limits: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(N, C, H, W), channels_last; between ``limits`` where they are given."""
        images: Tensor = torch.fft.irfft2(torch.view_as_complex(self.waves) * self.scale, s=self.size, norm="ortho")
        if limits is not None:
            images = images.clamp(*limits)
        return images.contiguous(memory_format=torch.channels_last)
