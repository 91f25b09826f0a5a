"""Images by their spectrum: what they start from, what Adam moves, and that they come out as images of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from zsq_zeroq import ZeroqOptions, zsq_synthesizers
from zsq_zeroq.synth import Distiller, Zeroq

from zsq.images import Spectrum
from zsq.testing.world import make_context, make_teacher


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def power(images: Tensor, low: bool) -> float:
    """Mean square of the waves below, or above, an eighth of a cycle per pixel."""
    rows, columns = torch.fft.fftfreq(images.shape[-2]), torch.fft.rfftfreq(images.shape[-1])
    slow = (rows[:, None].square() + columns.square()).sqrt() < 1 / 8
    return float(torch.fft.rfft2(images).abs().square()[..., slow if low else ~slow].mean())


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (12, 9), (33, 7)])
def test_images_have_the_size_of_the_noise_also_where_it_is_odd(size: tuple[int, int]) -> None:
    spectrum = Spectrum(noise(4, 3, *size))
    assert spectrum.images().shape == (4, 3, *size) and spectrum.waves.is_leaf and spectrum.waves.requires_grad
    assert spectrum.images().is_contiguous(memory_format=torch.channels_last)


def test_images_start_as_noise_of_variance_1_whose_slow_waves_are_strong() -> None:
    white = noise(64, 3, 32, 32)
    images = Spectrum(white).images().detach()
    assert float(images.var()) == pytest.approx(1, rel=0.1)
    assert power(images, low=True) > 10 * power(images, low=False) and power(white, low=True) < 1.2 * power(white, low=False)


def test_waves_of_variance_1_at_the_start() -> None:
    assert float(Spectrum(noise(64, 3, 32, 32)).waves.detach().var()) == pytest.approx(1, rel=0.05)


def test_every_frequency_counts_one_over_itself() -> None:
    spectrum = Spectrum(noise(1, 1, 16, 16))
    scale = spectrum.scale
    assert float(scale[0, 2] / scale[0, 4]) == pytest.approx(2) and float(scale[3, 0] / scale[6, 0]) == pytest.approx(2)
    assert scale[0, 0] == scale[0, 1] == scale[-1, 0] and scale.isfinite().all()  # no wave is longer than the side


def test_limits_hold_and_let_the_gradient_of_what_lies_between_through() -> None:
    spectrum = Spectrum(noise(4, 3, 8, 8))
    limits = torch.full((1, 3, 1, 1), -0.1), torch.full((1, 3, 1, 1), 0.2)
    images = spectrum.images(limits)
    assert float(images.detach().min()) >= -0.1001 and float(images.detach().max()) <= 0.2001
    images.sum().backward()
    assert spectrum.waves.grad is not None and spectrum.waves.grad.abs().sum() > 0


@pytest.mark.parametrize("clamp", [False, True])
def test_distilling_moves_the_spectrum_and_leaves_images_at_every_step(clamp: bool) -> None:
    ctx = make_context(Path(), teacher=make_teacher())
    distiller = Distiller(ZeroqOptions(iterations=30, basis="spectrum", clamp=clamp), ctx)
    x = noise(8, 3, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    seen: list[Tensor] = []
    losses = [float(metrics["loss"]) for _, metrics in distiller.make(x, torch.arange(8) % 4) if seen.append(x.detach().clone()) is None]
    assert losses[-1] < 0.7 * losses[0] and not torch.equal(seen[0], seen[1]) and torch.equal(seen[-1], x.detach())
    if clamp:
        low, high = distiller.limits
        assert (x >= low - 1e-6).all() and (x <= high + 1e-6).all()


def test_preset_begins_where_pixels_begin_with_slow_waves_made_strong() -> None:
    preset = next(iter(zsq_synthesizers())).presets["zeroq-spectrum"]
    pools = []
    for given in ({}, preset):
        options = ZeroqOptions.parse({"images": 16, "batch": 16, "iterations": 1, "lr": 1e-6, **given})
        synth = Zeroq(options, make_context(Path(), teacher=make_teacher()))
        list(synth.prepare(synth.ctx.probe))
        pools.append(synth.pool)
    torch.testing.assert_close(Spectrum(pools[0]).images().detach(), pools[1], rtol=1e-3, atol=1e-4)
