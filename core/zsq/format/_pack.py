"""Packs integer codes at their bit width into a little-endian bit stream: code ``i`` in bits ``i * bits`` to ``(i + 1) * bits - 1``.

Bit ``j`` of the stream is bit ``j % 8``, counted from the lowest, of byte ``j // 8``; the last byte is filled with zeros. Signed
codes are stored in two's complement. In a file the streams of all layers are squeezed into one zlib stream (RFC 1950) of Huffman
codes only, which shortens a byte to no less than a bit: what inflates further is refused before it fills the memory.
"""

from __future__ import annotations

import zlib

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
        ValueError: If ``packed`` does not hold exactly so many codes, or what fills its last byte is not zero.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if packed.dtype != torch.uint8 or packed.shape != (packed_size(count, bits),):
        raise ValueError(f"{tuple(packed.shape)} bytes cannot be {count} codes of {bits} bits")
    content = packed.cpu().numpy()
    if (used := count * bits % 8) and content[-1] >> used:
        raise ValueError("the last byte is not filled with zeros")
    if bits == 8:
        codes = content.astype(np.int32)
    else:
        digits = np.unpackbits(content, count=count * bits, bitorder="little").reshape(count, bits)
        codes = np.zeros(count, np.int32)
        for j in range(bits):  # one plane of bits at a time: no int32 for each bit
            codes |= digits[:, j].astype(np.int32) << j
    if signed:
        codes -= (codes >= 1 << (bits - 1)).astype(np.int32) << bits
    return torch.from_numpy(codes).view(shape)


def squeeze(packed: Tensor) -> Tensor:
    """Bytes (n,) as a zlib stream, uint8 (m,). Nothing is lost; at 4 bits and below m is about 0.8 n, as most weights are small."""
    worker = zlib.compressobj(level=9, memLevel=9, strategy=zlib.Z_HUFFMAN_ONLY)
    content = worker.compress(packed.numpy().tobytes()) + worker.flush()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def expand(stream: Tensor, size: int) -> Tensor:
    """The ``size`` original bytes.

    Raises:
        ValueError: If the stream is damaged, holds more or less, or is shorter than an eighth of ``size``.
    """
    if stream.dtype != torch.uint8 or stream.dim() != 1 or size > 8 * len(stream):
        raise ValueError(f"{tuple(stream.shape)} of {stream.dtype} cannot hold {size} bytes of codes")
    worker = zlib.decompressobj()
    try:
        content = worker.decompress(stream.numpy().tobytes(), size + 1)
    except zlib.error as error:
        raise ValueError(f"the codes do not inflate: {error}") from None
    if len(content) != size or not worker.eof or worker.unused_data:
        raise ValueError(f"the codes are not {size} bytes")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
