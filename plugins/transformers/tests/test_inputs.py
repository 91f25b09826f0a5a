"""``preprocessor_config.json`` as an input spec: the same inputs as the library's own steps give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from zsq_transformers.inputs import spec

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.mark.parametrize(
    ("preprocessing", "shape"),
    [
        ({"size": 224}, (3, 224, 224)),
        ({"size": {"height": 160, "width": 192}}, (3, 160, 192)),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (3, 224, 224)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}, (3, 224, 224)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": False}, (3, 256, 256)),
        ({"do_normalize": True}, (3, 32, 32)),
    ],
)
def test_shape(preprocessing: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert spec({"image_size": 32}, {"image_mean": MEAN, "image_std": STD, **preprocessing})["shape"] == shape


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": True, "rescale_factor": 1 / 127.5, "rescale_offset": True},
        {"do_rescale": False},
        {"include_top": True},
    ],
)
def test_pixels_become_the_same_inputs(settings: dict[str, Any]) -> None:
    found = spec({}, {"size": 8, "image_mean": MEAN, "image_std": STD, **settings})
    pixels = torch.randint(0, 256, (3, 8, 8)).double()
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (MEAN, STD))
    expected = pixels * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else pixels
    expected = expected - 1 if settings.get("rescale_offset") else expected
    expected = (expected - mean) / std if settings.get("do_normalize", True) else expected
    expected = expected / std if settings.get("include_top") else expected
    ours = (pixels / 255 - torch.tensor(found["mean"]).double().view(-1, 1, 1)) / torch.tensor(found["std"]).double().view(-1, 1, 1)
    assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_what_is_not_told_is_left_open() -> None:
    assert spec({"image_size": 32}, {}) == {"shape": (3, 32, 32)}
    assert spec({}, {"size": 8, "image_mean": [0.5]}) == {"shape": (3, 8, 8)}
