"""Integer codes at their true width: a little-endian stream of bits, code ``i`` in bits ``i * bits`` to ``(i + 1) * bits - 1``.

Bit ``j`` of the stream is bit ``j % 8``, counted from the lowest, of byte ``j // 8``; the last byte is filled with zeros. Signed
codes are stored in two's complement.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits take."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes of any shape, row by row, as uint8 bytes (n,)."""
    flat = codes.detach().cpu().contiguous().view(-1).numpy().astype(np.int32) & ((1 << bits) - 1)
    if bits == 8:
        return torch.from_numpy(flat.astype(np.uint8))
    digits = (flat[:, None] >> np.arange(bits, dtype=np.int32)) & 1
    return torch.from_numpy(np.packbits(digits.astype(np.uint8), bitorder="little"))


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...], signed: bool) -> Tensor:
    """The codes, int32, in ``shape``.

    Raises:
        ValueError: When ``packed`` does not hold exactly so many codes.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if packed.dtype != torch.uint8 or packed.shape != (packed_size(count, bits),):
        raise ValueError(f"{tuple(packed.shape)} bytes cannot be {count} codes of {bits} bits")
    digits = np.unpackbits(packed.cpu().numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    codes = digits.astype(np.int32) @ (1 << np.arange(bits, dtype=np.int32))
    if signed:
        codes -= (codes >= 1 << (bits - 1)).astype(np.int32) << bits
    return torch.from_numpy(codes).view(shape)
