"""State as bytes and back: tensors and plain values, nested as they may be, in one safetensors file. Nothing is ever pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

#: What stands in JSON for a tensor, a tuple, and a mapping whose keys are not all texts.
_TENSOR, _TUPLE, _PAIRS = "$tensor", "$tuple", "$pairs"


def dump(value: Any) -> bytes:
    """``value`` as the content of a safetensors file: tensors under numbers, all else as JSON in its metadata.

    Numbers come back exactly, and tensors (on the CPU) with the same bits, type and strides.

    Args:
        value: Mappings, lists and tuples of tensors, texts, numbers, truth values and None.

    Raises:
        TypeError: Naming the place of anything else.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    text = json.dumps(_encode(value, "", tensors, seen), separators=(",", ":"))
    return save(tensors, {"state": text})


def parse(content: bytes) -> Any:
    """What :func:`dump` was given.

    Raises:
        ValueError, KeyError, SafetensorError: When the content is something else.
    """
    size = int.from_bytes(content[:8], "little")
    text = json.loads(content[8 : 8 + size])["__metadata__"]["state"]
    return _decode(json.loads(text), load(content))


def _encode(value: Any, where: str, tensors: dict[str, Tensor], seen: set[int]) -> Any:
    if isinstance(value, Tensor):
        name, plain = str(len(tensors)), value.detach().cpu()
        flat = plain.contiguous()
        if flat.data_ptr() in seen:
            flat = flat.clone()
        seen.add(flat.data_ptr())
        tensors[name] = flat
        stride = list(plain.stride())  # also where a dimension of size 1 leaves them open: kernels are chosen by them
        usual = stride == list(torch.empty(plain.shape, device="meta").stride())
        return {_TENSOR: name} if usual or not _dense(plain) else {_TENSOR: name, "stride": stride}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _encode(item, f"{where}.{key}", tensors, seen) for key, item in value.items()}
        return {_PAIRS: [[_encode(part, f"{where}.{key}", tensors, seen) for part in (key, item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_encode(item, f"{where}.{index}", tensors, seen) for index, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"a {type(value).__name__} at '{where.lstrip('.')}' is neither a tensor nor a plain value")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        tensor = tensors[value[_TENSOR]]
        if "stride" not in value:
            return tensor
        return torch.empty_strided(tensor.shape, value["stride"], dtype=tensor.dtype).copy_(tensor)
    if _TUPLE in value:
        return tuple(_decode(item, tensors) for item in value[_TUPLE])
    if _PAIRS in value:
        return {_decode(key, tensors): _decode(item, tensors) for key, item in value[_PAIRS]}
    return {key: _decode(item, tensors) for key, item in value.items()}


def _dense(tensor: Tensor) -> bool:
    """Whether the tensor's elements fill a piece of memory, each place once: then its strides can be had again."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
