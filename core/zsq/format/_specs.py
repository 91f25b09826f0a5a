"""Encodes a student's modules as JSON values and decodes them; checks every setting before it allocates memory (docs/format.md).

A module is ``{"type": KIND, ...}`` with the settings of its kind, all of them and no others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zsq.errors import ZsqError
from zsq.format._pack import packed_size
from zsq.grids import LAYERS, ActPoint

_NORMS: Mapping[str, type[Any]] = {"BatchNorm1d": nn.BatchNorm1d, "BatchNorm2d": nn.BatchNorm2d, "BatchNorm3d": nn.BatchNorm3d}
_TRANSPOSED = "ConvTranspose2d"
#: Settings of an activation, and what every layer has; a convolution has those of ``_OPTIONS`` too.
_ACTIVATION = frozenset({"type", "bits", "symmetric"})
_LAYER = frozenset({"type", "shape", "bias", "bits", "symmetric", "per_channel", "channels_last"})
_NORM = frozenset({"type", "features", "eps", "momentum", "affine"})
_OPTIONS = ("stride", "padding", "dilation", "groups")
#: Dimensions of a layer's weight.
_DIMENSIONS = {"Linear": 2, "Conv1d": 3, "Conv2d": 4, "Conv3d": 5, _TRANSPOSED: 4}


def encode_module(path: str, root: nn.Module) -> dict[str, Any]:
    """One module's kind and settings.

    Raises:
        ZsqError: If it is of no known kind.
    """
    module: Any = root.get_submodule(path)
    kind = type(module).__name__.removeprefix("Quant")
    if isinstance(module, ActPoint):
        return {"type": "Activation", "bits": module.bits, "symmetric": module.symmetric}
    if LAYERS.get(kind) is type(module):
        point = module.weight_point
        spec = {"type": kind, "shape": list(module.weight.shape), "bias": module.bias is not None, "bits": point.bits}
        spec |= {"symmetric": point.symmetric, "per_channel": point.axis is not None}
        plain = torch.empty(module.weight.shape, device="meta")  # one pixel or channel is contiguous either way, but other kernels run
        spec["channels_last"] = module.weight.dim() == 4 and module.weight.stride() != plain.stride()
        settings = {k: getattr(module, k) for k in _options(kind)}
        return spec | {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    if _NORMS.get(kind) is type(module):
        return {"type": kind, "features": module.num_features, "eps": module.eps, "momentum": module.momentum, "affine": module.affine}
    if type(module) is nn.Identity:
        return {"type": "Identity"}
    raise ZsqError(f"cannot save '{path}', a {type(module).__name__}", "exporter safetensors", "use --quant uniform, or another --export")


@dataclass(frozen=True)
class Sizes:
    """The number of values of each kind that a module stores in the file; ``values`` by name, in file order."""

    weights: int = 0
    packed: int = 0
    scales: int = 0
    zero_points: int = 0
    values: tuple[tuple[str, int], ...] = ()


def sizes(spec: Mapping[str, Any]) -> Sizes:
    """The values that a module with these settings stores in the file. Allocates no memory, so absurd sizes are safe.

    Raises:
        ValueError, TypeError: If the settings are not exactly those of a known kind.
    """
    kind = spec["type"]
    if kind in _NORMS:
        count = _integer(spec["features"], 1)
        names = ("weight", "bias") if _flag(spec["affine"]) else ()
        return Sizes(values=tuple((name, count) for name in (*names, "running_mean", "running_var")))
    if kind not in LAYERS:
        return Sizes()
    shape = integers(spec["shape"], 1)
    if len(shape) != _DIMENSIONS[kind]:
        raise ValueError(f"a {kind} cannot have a weight of shape {shape}")
    count, channels = math.prod(shape), shape[1] if kind == _TRANSPOSED else shape[0]
    outputs = channels * (_integer(spec["groups"], 1) if kind == _TRANSPOSED else 1)
    grids = channels if _flag(spec["per_channel"]) else 1
    values = (("bias", outputs),) if _flag(spec["bias"]) else ()
    return Sizes(count, packed_size(count, _bits(spec["bits"])), grids, 0 if _flag(spec["symmetric"]) else grids, values)


def decode_module(spec: Mapping[str, Any]) -> nn.Module:
    """A module of the kind and settings; its tensors are not initialised.

    Raises:
        ValueError, TypeError, RuntimeError: If the settings are not exactly those of a known kind, or do not go together.
    """
    kind = spec["type"]
    if kind == "Activation":
        only(spec, _ACTIVATION)
        return ActPoint(_bits(spec["bits"]), _flag(spec["symmetric"]))
    if kind == "Identity":
        only(spec, frozenset({"type"}))
        return nn.Identity()
    if kind in _NORMS:
        only(spec, _NORM)
        momentum = None if spec["momentum"] is None else _number(spec["momentum"])
        return _NORMS[kind](_integer(spec["features"], 1), _number(spec["eps"]), momentum, _flag(spec["affine"]))  # type: ignore[no-any-return]
    if kind not in LAYERS:
        raise ValueError(f"unknown module '{kind}'")
    only(spec, _LAYER.union(_options(kind)))
    shape, bias = tuple(integers(spec["shape"], 1)), _flag(spec["bias"])
    if kind == "Linear":
        layer: Any = LAYERS[kind](shape[1], shape[0], bias, device="meta")
    else:
        options = {k: _option(k, spec[k], len(shape) - 2) for k in _options(kind)}
        groups = options["groups"]
        first, second = (shape[0], shape[1] * groups) if kind == _TRANSPOSED else (shape[1] * groups, shape[0])
        layer = LAYERS[kind](first, second, shape[2:], bias=bias, device="meta", **options)
    if tuple(layer.weight.shape) != shape:
        raise ValueError(f"a {kind} of {groups} groups cannot have a weight of shape {shape}")
    layer.to_empty(device="cpu")
    if _flag(spec["channels_last"]):
        layer.to(memory_format=torch.channels_last)
    layer.point(_bits(spec["bits"]), _flag(spec["symmetric"]), _flag(spec["per_channel"]))
    return layer  # type: ignore[no-any-return]


def _options(kind: str) -> tuple[str, ...]:
    """The settings that only a convolution has."""
    return () if kind == "Linear" else (*_OPTIONS, "output_padding") if kind == _TRANSPOSED else _OPTIONS


def _option(name: str, value: Any, dimensions: int) -> Any:
    """A convolution's setting: a number of groups, the name of a padding, or one number for each dimension."""
    if name == "groups":
        return _integer(value, 1)
    if name == "padding" and value in ("same", "valid"):
        return value
    numbers = tuple(integers(value, 0 if "padding" in name else 1))
    if len(numbers) != dimensions:
        raise ValueError(f"{name} {value!r} is not of {dimensions} dimensions")
    return numbers


def only(spec: Mapping[str, Any], keys: frozenset[str]) -> None:
    """Raise ValueError unless the object has exactly these keys."""
    if not isinstance(spec, dict) or spec.keys() != keys:
        raise ValueError(f"{', '.join(sorted(keys))} were expected, not {', '.join(sorted(spec))}")


def listed(value: Any) -> list[Any]:
    """``value``; raises ValueError if it is not a list."""
    if type(value) is not list:
        raise ValueError(f"{value!r} is not a list")
    return value


def integers(value: Any, least: int) -> list[int]:
    """``value``; raises ValueError if it is not a list of integers >= ``least``."""
    return [_integer(v, least) for v in listed(value)]


def _bits(value: Any) -> int:
    if not 2 <= _integer(value, 2) <= 16:
        raise ValueError(f"{value!r} is not a bit width")
    return int(value)


def _integer(value: Any, least: int) -> int:
    if type(value) is not int or not least <= value < 2**31:
        raise ValueError(f"{value!r} is not a number from {least} on")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is not a finite number from 0 on")
    return float(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{value!r} is neither true nor false")
    return value
