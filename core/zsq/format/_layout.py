"""Packs and unpacks the tensors of ``model.safetensors``: values of one kind in one tensor, ordered by module path (docs/format.md).

Hundreds of small tensors with long names are what makes a small student large: joined, they need no names but the modules' own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zsq.errors import ZsqError
from zsq.format._pack import expand, pack, squeeze, unpack
from zsq.format._specs import Sizes, integers, only, sizes
from zsq.grids import ActPoint, WeightPoint

#: Types that a tensor outside of layers, BatchNorms and points may have, by their names in the configuration.
DTYPES: Mapping[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "bool")
}
_INTEGERS = (torch.int8, torch.int16, torch.int32)
#: Zero points are integers that float32 holds exactly, see ``affine``.
_FARTHEST = 2**23


def describe(loose: Mapping[str, Tensor]) -> dict[str, Any]:
    """Type and shape of loose tensors, as the configuration stores them.

    Raises:
        ZsqError: If one is of a type that the file does not know.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    if unknown := [path for path in loose if loose[path].dtype not in names]:
        raise _unsaveable(f"'{unknown[0]}' holds {loose[unknown[0]].dtype}")
    return {path: {"dtype": names[tensor.dtype], "shape": list(tensor.shape)} for path, tensor in loose.items()}


def join(root: nn.Module, specs: Mapping[str, Mapping[str, Any]], loose: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Everything that the modules of ``specs`` and ``loose`` hold.

    Raises:
        ZsqError: If a module's value is not a finite float32.
    """
    modules: list[tuple[str, Any, Sizes]] = [(path, root.get_submodule(path), sizes(specs[path])) for path in sorted(specs)]
    layers: list[WeightPoint] = [module.weight_point for _, module, size in modules if size.weights]
    acts = [module for path, module, _ in modules if specs[path]["type"] == "Activation"]
    values = [(path, name, getattr(module, name)) for path, module, size in modules for name, _ in size.values]
    if wide := [f"{path}.{name}" for path, name, tensor in values if tensor.dtype != torch.float32]:
        raise _unsaveable(f"'{wide[0]}' is not float32")
    tensors = {
        "scales": _flat(point.scale for point in layers),
        "zero_points": _narrow(_flat(point.zero_point for point in layers if not point.symmetric)),
        "act_ranges": torch.stack((_flat(point.lo for point in acts), _flat(point.hi for point in acts)), 1),
        "act_scales": _flat(point.scale for point in acts),
        "act_zero_points": _narrow(_flat(point.zero_point.nan_to_num() for point in acts)),
    }
    if layers:
        tensors["codes"] = squeeze(torch.cat([pack(point.codes, point.bits) for point in layers]))
    for name, dtype in DTYPES.items():
        first = [tensor for _, _, tensor in values] if name == "float32" else []
        tensors[_values(name)] = _flat(first + [loose[path] for path in sorted(loose) if loose[path].dtype == dtype], dtype)
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
    try:
        _check(tensors)
        for path, name, tensor in values:
            _finite(tensor, f"{path}.{name}")
    except ValueError as error:
        raise _unsaveable(str(error)) from None
    return tensors


class Parts:
    """The tensors of a file, checked against its configuration and read in file order.

    Nothing larger than eight times the file is made before it is known that both agree.

    Raises:
        ValueError, TypeError, KeyError: If the tensors are not exactly those of the configuration.
    """

    def __init__(self, tensors: Mapping[str, Tensor], specs: Mapping[str, Any], loose: Mapping[str, Any]) -> None:
        self.sizes = {path: sizes(specs[path]) for path in sorted(specs)}
        self.loose = {path: (_dtype(loose[path]), tuple(integers(loose[path]["shape"], 0))) for path in sorted(loose)}
        self._taken: dict[str, int] = {}
        every, acts = self.sizes.values(), sum(spec["type"] == "Activation" for spec in specs.values())
        counts = {
            "scales": sum(size.scales for size in every),
            "zero_points": sum(size.zero_points for size in every),
            "act_ranges": acts,
            "act_scales": acts,
            "act_zero_points": acts,
            "values": sum(count for size in every for _, count in size.values),
        }
        for kind, shape in self.loose.values():
            counts[_values(kind)] = counts.get(_values(kind), 0) + math.prod(shape)
        packed = sum(size.packed for size in every)
        wanted = {name for name, count in (*counts.items(), ("codes", packed)) if count}
        if tensors.keys() != wanted:
            raise ValueError(f"the tensors are {', '.join(sorted(tensors))}; expected were {', '.join(sorted(wanted))}")
        for name, tensor in tensors.items():
            shape = tensor.shape if name == "codes" else (counts[name], 2) if name == "act_ranges" else (counts[name],)
            if tensor.shape != shape or tensor.dtype not in _kinds(name):
                raise ValueError(f"'{name}' is {tuple(tensor.shape)} of {tensor.dtype}; expected was {tuple(shape)} of {_kinds(name)[0]}")
        _check(tensors)
        self._tensors = {**tensors, "codes": expand(tensors["codes"], packed)} if packed else dict(tensors)

    def take(self, name: str, count: int) -> Tensor:
        """The next ``count`` rows of tensor ``name``, as a copy."""
        start = self._taken.get(name, 0)
        self._taken[name] = start + count
        return self._tensors[name][start : start + count].clone() if count else torch.empty(0)

    @torch.no_grad()
    def fill(self, root: nn.Module) -> None:
        """Fill every module of ``root`` with its values and freeze its points.

        Raises:
            ValueError, AttributeError, KeyError: If values are not finite, or a grid does not follow from its range.
        """
        for path, size in self.sizes.items():
            module: Any = root.get_submodule(path)
            if size.weights:
                point = module.weight_point
                codes = unpack(self.take("codes", size.packed), point.bits, tuple(module.weight.shape), signed=point.symmetric)
                scale = self.take("scales", size.scales)
                point.fix(codes, scale, torch.zeros_like(scale) if point.symmetric else self.take("zero_points", size.zero_points).float())
                _finite(module.weight, f"{path}.weight")
            elif isinstance(module, ActPoint):
                self._activation(path, module)
            for name, count in size.values:
                getattr(module, name).copy_(_finite(self.take("values", count), f"{path}.{name}"))
        for path, (kind, shape) in self.loose.items():
            owner, _, name = path.rpartition(".")
            values = self.take(_values(kind), math.prod(shape)).to(DTYPES[kind])
            root.get_submodule(owner).register_buffer(name, values.reshape(shape))

    def _activation(self, path: str, point: Any) -> None:
        point.set_range(*self.take("act_ranges", 1)[0])
        point.freeze()
        scale, zero = self.take("act_scales", 1)[0], self.take("act_zero_points", 1)[0]
        if point.scale.nan_to_num() != scale.nan_to_num() or point.zero_point.nan_to_num() != zero:
            raise ValueError(f"scale and zero point of '{path}' do not follow from its range")


def _values(kind: str) -> str:
    """The name of the tensor that holds all values of one type."""
    return "values" if kind == "float32" else f"values.{kind}"


def _kinds(name: str) -> tuple[torch.dtype, ...]:
    """The types that a tensor of the file may have."""
    if name.endswith("zero_points"):
        return _INTEGERS
    return (torch.uint8,) if name == "codes" else (DTYPES[name.partition(".")[2] or "float32"],)


def _dtype(spec: Mapping[str, Any]) -> str:
    only(spec, frozenset({"dtype", "shape"}))
    if spec["dtype"] not in DTYPES:
        raise ValueError(f"unknown type {spec['dtype']!r}")
    return str(spec["dtype"])


def _flat(tensors: Iterable[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.cat([torch.empty(0, dtype=dtype), *(tensor.detach().cpu().reshape(-1) for tensor in tensors)])


def _narrow(numbers: Tensor) -> Tensor:
    """The integers in the smallest type that can hold them."""
    for dtype in _INTEGERS:
        if torch.equal(numbers.to(dtype).to(numbers.dtype), numbers):
            return numbers.to(dtype)
    raise _unsaveable("a zero point is not an integer")


def _check(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for invalid grids: scales must be positive; ranges must be ordered, or NaN if not set."""
    if (scales := tensors.get("scales")) is not None and not bool(((scales > 0) & scales.isfinite()).all()):
        raise ValueError("a scale is not a positive number")
    if (zeros := tensors.get("zero_points")) is not None and bool((zeros.long().abs() > _FARTHEST).any()):
        raise ValueError("a zero point is too far from zero")
    if (ranges := tensors.get("act_ranges")) is not None:
        lo, hi = ranges.unbind(1)
        if not bool(((lo.isnan() & hi.isnan()) | ((lo <= hi) & lo.isfinite() & hi.isfinite())).all()):
            raise ValueError("the range of an activation is not from a smaller to a larger number")


def _finite(values: Tensor, name: str) -> Tensor:
    if not bool(values.isfinite().all()) or (name.endswith(".running_var") and bool((values < 0).any())):
        raise ValueError(f"'{name}' holds values that no network has")
    return values


def _unsaveable(what: str) -> ZsqError:
    return ZsqError(f"cannot save this student: {what}", "exporter safetensors", "use --quant uniform, or another --export")
