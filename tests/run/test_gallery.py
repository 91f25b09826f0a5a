"""The picture of synthetic images: back in pixels by the teacher's spec, and no larger than it has to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zsq.images import gallery, read_npz, write_npz
from zsq.types import Batch, InputSpec


def spec(channels: int, size: int) -> InputSpec:
    return InputSpec((channels, size, size), (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels])


def batch(inputs: InputSpec, pixels: torch.Tensor) -> Batch:
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (inputs.mean, inputs.std))
    return Batch((pixels.float() / 255 - mean) / std)


@pytest.mark.parametrize(("channels", "count"), [(3, 20), (1, 3)])
def test_it_shows_the_pixels_and_can_be_read_back(tmp_path: Path, channels: int, count: int) -> None:
    inputs = spec(channels, 12)
    pixels = torch.randint(0, 255, (count, channels, 12, 12), generator=torch.Generator().manual_seed(0))
    made = batch(inputs, pixels)
    gallery(made, inputs).save(tmp_path / "images.png")
    with Image.open(tmp_path / "images.png") as picture:
        shown = np.asarray(picture).reshape(picture.height, picture.width, channels)
    scale = round(512 / (8 * 14 + 2))
    corner = shown[2 * scale : 14 * scale : scale, 2 * scale : 14 * scale : scale]
    assert np.array_equal(corner, pixels[0].permute(1, 2, 0).numpy())
    write_npz(tmp_path / "images.npz", made.inputs, inputs)
    assert torch.allclose(read_npz(tmp_path / "images.npz", inputs, count), made.inputs, atol=1e-5)


def test_values_beyond_a_pixel_are_clipped() -> None:
    inputs = spec(3, 4)
    far = Batch(torch.cat([torch.full((1, 3, 4, 4), 99.0), torch.full((1, 3, 4, 4), -99.0)]))
    pixels = np.asarray(gallery(far, inputs))
    assert {0, 255} == set(np.unique(pixels).tolist())


@pytest.mark.parametrize(
    ("size", "shown", "less"), [((32, 32), 64, 1), ((128, 128), 24, 1), ((224, 224), 32, 2), ((240, 320), 24, 2), ((299, 299), 32, 3)]
)
def test_a_picture_of_large_images_shows_them_smaller(size: tuple[int, int], shown: int, less: int) -> None:
    inputs = InputSpec((3, *size), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    smooth = torch.randint(0, 256, (64, 3, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    pixels = torch.nn.functional.interpolate(smooth, size, mode="bilinear").round()
    picture = gallery(batch(inputs, pixels), inputs)
    height, width = (side // less for side in size)
    scale = max(1, round(512 / (8 * (width + 2) + 2)))
    assert picture.height // scale == shown // 8 * (height + 2) + 2
