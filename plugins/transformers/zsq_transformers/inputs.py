"""Reads the input spec from ``preprocessor_config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def spec(config: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """``shape``, ``mean`` and ``std`` for pixels in [0, 1]; what is not told is None.

    The library multiplies pixels in [0, 255] by ``rescale_factor`` (and subtracts 1 with ``rescale_offset``), then normalises;
    here both steps are one.

    Args:
        config: ``config.json``.
        preprocessing: ``preprocessor_config.json``.
    """
    channels = config.get("num_channels", 3)
    size = _size(preprocessing) or _pair(config.get("image_size"))
    if not preprocessing or not isinstance(channels, int):
        return {"shape": (channels, *size) if size and isinstance(channels, int) else None}
    mean, std = preprocessing.get("image_mean"), preprocessing.get("image_std")
    if not preprocessing.get("do_normalize", True):
        mean, std = [0.0] * channels, [1.0] * channels
    if not _numbers(mean, channels) or not _numbers(std, channels):
        return {"shape": (channels, *size) if size else None}
    factor = 255 * preprocessing.get("rescale_factor", 1 / 255) if preprocessing.get("do_rescale", True) else 255.0
    offset = 1.0 if preprocessing.get("rescale_offset") else 0.0
    assert isinstance(mean, list) and isinstance(std, list)
    if preprocessing.get("include_top"):  # such networks divide twice
        std = [value * value for value in std]
    return {
        "shape": (channels, *size) if size else None,
        "mean": [(value + offset) / factor for value in mean],
        "std": [value / factor for value in std],
    }


def _size(preprocessing: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width after cropping, or after resizing where nothing is cropped."""
    cropped = _pair(preprocessing.get("crop_size")) if preprocessing.get("do_center_crop", "crop_size" in preprocessing) else None
    return cropped or _pair(preprocessing.get("size"))


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, Mapping):
        short = value.get("shortest_edge")
        value = (value.get("height", short), value.get("width", short))
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    return (pair[0], pair[1]) if len(pair) == 2 and all(isinstance(n, int) and n > 0 for n in pair) else None


def _numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(isinstance(v, (int, float)) for v in values)
