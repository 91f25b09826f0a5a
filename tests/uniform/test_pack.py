"""Squeezed bytes come back, and no stream that zsq writes is so short that zsq refuses it."""

from __future__ import annotations

import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsq.format._pack import expand, pack, squeeze, unpack


def tensor(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


@given(st.binary(min_size=1, max_size=3000))
def test_squeezed_bytes_come_back(content: bytes) -> None:
    assert torch.equal(expand(squeeze(tensor(content)), len(content)), tensor(content))


@pytest.mark.parametrize("byte", [0, 255])
@pytest.mark.parametrize("size", [1, 100, 10**6])
def test_equal_bytes_take_an_eighth_at_least(byte: int, size: int) -> None:
    content = torch.full((size,), byte, dtype=torch.uint8)
    stream = squeeze(content)
    assert 8 * len(stream) >= size and torch.equal(expand(stream, size), content)


def test_small_weights_take_less_than_their_bits() -> None:
    codes = (torch.randn(10**5, generator=torch.Generator().manual_seed(0)) * 2).round().clamp(-8, 7).int()
    packed = pack(codes, 4)
    assert packed.numel() == 5 * 10**4 and len(squeeze(packed)) < 0.85 * packed.numel()


@pytest.mark.parametrize(
    ("stream", "size"),
    [
        (b"", 1),
        (b"nothing of the kind", 10),
        (zlib.compress(bytes(100))[:-1], 100),
        (zlib.compress(bytes(range(100))) + b"more", 100),
        (zlib.compress(bytes(range(100))), 99),
        (zlib.compress(bytes(range(100))), 101),
        (zlib.compress(bytes(10**6), 9), 10**6),
    ],
)
def test_other_streams_are_refused(stream: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="codes"):
        expand(tensor(stream) if stream else torch.empty(0, dtype=torch.uint8), size)


def test_what_fills_the_last_byte_has_to_be_zero() -> None:
    packed = pack(torch.tensor([1, 2, 3]), 3)
    assert unpack(packed, 3, (3,), signed=False).tolist() == [1, 2, 3]
    packed[-1] |= 0x80
    with pytest.raises(ValueError, match="not filled with zeros"):
        unpack(packed, 3, (3,), signed=False)
