"""Chooses the arithmetic of training: bf16 autocast if the processor is fast at it and it costs no accuracy, else FP32."""

from __future__ import annotations

import torch

from zsq.types import Precision

#: bf16 has 8 bits of mantissa; finer grids than this would be trained on rounding noise.
_FINEST_BF16_BITS = 5


def choose_precision(asked: str, device: torch.device, bits: int = 0) -> Precision:
    """``asked``; or for ``auto`` bf16 if the hardware multiplies it and no grid is too fine for it.

    Args:
        asked: ``auto``, ``fp32`` or ``bf16``.
        device: Where forward passes run.
        bits: Of the finest grid; 0 if there is none, for example while images are made from the teacher alone.
    """
    if asked != "auto":
        return Precision(asked, device.type)
    return Precision("bf16" if bits <= _FINEST_BF16_BITS and _multiplies_bf16(device) else "fp32", device.type)


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
