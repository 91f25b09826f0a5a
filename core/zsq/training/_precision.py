"""The arithmetic of training: bf16 autocast where the machine has it and accuracy agrees, FP32 one flag away."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

#: bf16 keeps 8 bits of mantissa, so grids finer than this would be trained on rounding noise.
_FINEST_BF16_BITS = 5


@dataclass(frozen=True)
class Precision:
    """``fp32`` or ``bf16`` on one kind of device."""

    name: str
    device: str = "cpu"

    def autocast(self) -> AbstractContextManager[Any]:
        """A context for forwards; parameters and optimizers stay in float32."""
        return torch.autocast(self.device, torch.bfloat16) if self.name == "bf16" else nullcontext()


def choose_precision(asked: str, device: torch.device, bits: int = 0) -> Precision:
    """``asked``, or for ``auto`` bf16 where the hardware multiplies it and no grid is finer than bf16 can tell apart.

    Args:
        asked: ``auto``, ``fp32`` or ``bf16``.
        device: Where forwards run.
        bits: Of the finest grid; 0 where there is none, as when images are made from the teacher alone.
    """
    if asked != "auto":
        return Precision(asked, device.type)
    return Precision("bf16" if bits <= _FINEST_BF16_BITS and _multiplies_bf16(device) else "fp32", device.type)


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
