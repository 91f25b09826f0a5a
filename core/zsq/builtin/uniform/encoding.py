"""A student's modules and graph as JSON values, and back: a closed encoding, every value of it checked on reading.

A node is ``{"name", "op", "target", "args", "kwargs"}``. Targets are paths of modules and tensors, ``aten::NAME.OVERLOAD``, or
``operator::NAME`` for arithmetic on sizes. Arguments are numbers, strings, null, lists, and objects with one key:
``{"node": NAME}``, ``{"dtype": NAME}``, ``{"memory_format": NAME}``, ``{"layout": NAME}``, ``{"device": null}`` (wherever the student is),
``{"float": "inf"}``, ``{"dict": {...}}``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from zsq.builtin.uniform.graph import SIZE_OPS
from zsq.builtin.uniform.points import LAYERS, ActPoint
from zsq.errors import ZsqError

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PATH = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)
_NAMED = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}
_NORMS: Mapping[str, type[Any]] = {"BatchNorm1d": nn.BatchNorm1d, "BatchNorm2d": nn.BatchNorm2d, "BatchNorm3d": nn.BatchNorm3d}
_OPTIONS = ("stride", "padding", "dilation", "output_padding", "groups")
#: ATen operations without a tensor argument that a network may contain; all others need one.
_FACTORIES = frozenset({"arange", "full", "zeros", "ones", "scalar_tensor", "linspace", "eye"})


def encode_module(path: str, root: nn.Module) -> dict[str, Any]:
    """One module's kind and settings.

    Raises:
        ZsqError: When it is of no known kind.
    """
    module: Any = root.get_submodule(path)
    kind = type(module).__name__.removeprefix("Quant")
    if isinstance(module, ActPoint):
        return {"type": "Activation", "bits": module.bits, "symmetric": module.symmetric}
    if LAYERS.get(kind) is type(module):
        point = module.weight_point
        spec = {"type": kind, "shape": list(module.weight.shape), "bias": module.bias is not None, "bits": point.bits}
        spec |= {"symmetric": point.symmetric, "per_channel": point.axis is not None}
        spec["channels_last"] = module.weight.dim() == 4 and not module.weight.is_contiguous()
        settings = {k: getattr(module, k) for k in _OPTIONS if hasattr(module, k)}
        return spec | {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    if _NORMS.get(kind) is type(module):
        return {"type": kind, "features": module.num_features, "eps": module.eps, "momentum": module.momentum, "affine": module.affine}
    if type(module) is nn.Identity:
        return {"type": "Identity"}
    raise ZsqError(f"cannot save '{path}', a {type(module).__name__}", "exporter safetensors", "use --quant uniform, or another --export")


def decode_module(spec: Mapping[str, Any]) -> nn.Module:
    """A module of the kind and settings; values of its tensors are left open."""
    kind = spec["type"]
    if kind == "Activation":
        return ActPoint(_bits(spec["bits"]), bool(spec["symmetric"]))
    if kind == "Identity":
        return nn.Identity()
    if kind in _NORMS:
        return _NORMS[kind](int(spec["features"]), float(spec["eps"]), spec["momentum"], bool(spec["affine"]))  # type: ignore[no-any-return]
    shape = tuple(int(s) for s in spec["shape"])
    bias = bool(spec["bias"])
    if kind == "Linear":
        layer: Any = LAYERS[kind](shape[1], shape[0], bias, device="meta")
    else:
        keys = [k for k in _OPTIONS if k in spec and (k != "output_padding" or "Transpose" in kind)]
        options = {k: tuple(spec[k]) if isinstance(spec[k], list) else spec[k] for k in keys}
        groups = options["groups"]
        first, second = (shape[0], shape[1] * groups) if "Transpose" in kind else (shape[1] * groups, shape[0])
        layer = LAYERS[kind](first, second, shape[2:], bias=bias, device="meta", **options)
    layer.to_empty(device="cpu")
    if spec["channels_last"]:
        layer.to(memory_format=torch.channels_last)
    layer.point(_bits(spec["bits"]), bool(spec["symmetric"]), bool(spec["per_channel"]))
    return layer  # type: ignore[no-any-return]


def encode_graph(graph: fx.Graph) -> list[dict[str, Any]]:
    """All nodes, in order."""
    return [
        {
            "name": n.name,
            "op": n.op,
            "target": _target(n),
            "args": [_encode(a) for a in n.args],
            "kwargs": {k: _encode(v) for k, v in n.kwargs.items()},
        }
        for n in graph.nodes
    ]


def decode_graph(nodes: list[Mapping[str, Any]], root: nn.Module, device: torch.device) -> fx.Graph:
    """The graph over the modules and tensors of ``root``.

    Raises:
        ValueError: At the first value that the encoding does not know.
    """
    graph = fx.Graph()
    known: dict[str, fx.Node] = {}
    for spec in nodes:
        name, op = _name(spec["name"]), spec["op"]
        inputs = tuple(_decode(a, known, device) for a in spec["args"])
        options = {_name(k): _decode(v, known, device) for k, v in spec["kwargs"].items()}
        if op == "output":
            known[name] = graph.output(*inputs)
        elif op == "call_function":
            known[name] = graph.call_function(_function(spec["target"], inputs, options), inputs, options)
        elif op in ("placeholder", "get_attr", "call_module"):
            target = _name(spec["target"], _NAME if op == "placeholder" else _PATH)
            if op == "call_module":
                root.get_submodule(target)
            known[name] = graph.create_node(op, target, inputs, options, name)
        else:
            raise ValueError(f"unknown operation '{op}'")
    graph.lint()
    return graph


def _target(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        return f"{node.target._schema.name}.{node.target._overloadname}"
    return f"operator::{next(name for name, function in SIZE_OPS.items() if function is node.target)}"


def _encode(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_encode(v) for v in value]
    if isinstance(value, dict):
        return {"dict": {str(k): _encode(v) for k, v in value.items()}}
    if isinstance(value, torch.device):
        return {"device": None}
    for key, kind in _NAMED.items():
        if isinstance(value, kind):
            return {key: str(value).removeprefix("torch.")}
    raise ZsqError(f"cannot save a {type(value).__name__} in the network's graph", "exporter safetensors", "use another --export")


def _decode(value: Any, known: Mapping[str, fx.Node], device: torch.device) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_decode(v, known, device) for v in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f"unknown argument {value!r}")
    ((key, inner),) = value.items()
    if key == "node":
        return known[inner]
    if key == "float":
        return float(inner)
    if key == "device":
        return device
    if key == "dict":
        return {_name(k): _decode(v, known, device) for k, v in inner.items()}
    if key in _NAMED and isinstance(found := getattr(torch, _name(inner), None), _NAMED[key]):
        return found
    raise ValueError(f"unknown argument {value!r}")


def _function(target: str, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    """The function of a target: pure ATen on tensors of the graph, or arithmetic on sizes."""
    space, _, name = target.partition("::")
    if space == "operator" and name in SIZE_OPS:
        return SIZE_OPS[name]
    packet_name, _, overload = name.partition(".")
    packet = getattr(torch.ops.aten, _name(packet_name), None) if space == "aten" else None
    if not isinstance(packet, torch._ops.OpOverloadPacket) or overload not in packet.overloads():  # type: ignore[no-untyped-call]
        raise ValueError(f"unknown function '{target}'")
    function = getattr(packet, overload)
    schema = function._schema
    given = {**dict(zip((a.name for a in schema.arguments), inputs, strict=False)), **options}
    tensors = [given.get(a.name) for a in schema.arguments if "Tensor" in str(a.type)]
    reads = any(isinstance(v, fx.Node) or (isinstance(v, list) and any(isinstance(i, fx.Node) for i in v)) for v in tensors)
    if schema.is_mutable or not schema.returns or not (reads or packet_name in _FACTORIES):
        raise ValueError(f"function '{target}' is not allowed in a saved network")
    return function


def _name(value: Any, form: re.Pattern[str] = _NAME) -> str:
    """A plain name, or a path of them: what becomes part of generated code has to be one."""
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{value!r} is not a name")
    return value


def _bits(value: Any) -> int:
    if not isinstance(value, int) or not 2 <= value <= 16:
        raise ValueError(f"{value!r} is not a bit width")
    return value
