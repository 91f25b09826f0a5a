"""Encodes a student's graph as JSON values and decodes it, checking every value (docs/format.md).

A node is ``{"name", "op", "target", "args", "kwargs"}``. Targets are paths of modules and tensors, ``aten::NAME.OVERLOAD``, or
``operator::NAME`` for arithmetic on sizes. Arguments are numbers, strings, null, lists, and objects with one key:
``{"node": NAME}``, ``{"dtype": NAME}``, ``{"memory_format": NAME}``, ``{"layout": NAME}``, ``{"device": null}`` (the student's device),
``{"float": "inf"}``, ``{"tuple": [...]}``, ``{"dict": {...}}``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from zsq.errors import ZsqError
from zsq.format._specs import listed, only
from zsq.graph import SIZE_OPS
from zsq.grids import WeightPoint

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PATH = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)
_NODE = frozenset({"name", "op", "target", "args", "kwargs"})
_NAMED = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}
#: Largest number of nodes, far above every network traced so far: checking a longer list would take minutes.
MAX_NODES = 20_000
#: ATen operations without a tensor argument that a network may contain; all others need one.
_FACTORIES = frozenset({"arange", "full", "zeros", "ones", "scalar_tensor", "linspace", "eye"})


def encode_graph(graph: fx.Graph) -> list[dict[str, Any]]:
    """Encode all nodes, in order.

    Raises:
        ZsqError: If there are more than ``MAX_NODES``.
    """
    if len(graph.nodes) > MAX_NODES:
        raise ZsqError(f"cannot save a network of more than {MAX_NODES} operations", "exporter safetensors", "use another --export")
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
    """The graph over the modules and tensors of ``root``: one input, then operations, then the output; it calls every module.

    Raises:
        ValueError: At the first value that is not part of the encoding.
    """
    if not isinstance(nodes, list) or not 2 <= len(nodes) <= MAX_NODES:
        raise ValueError(f"a network of 2 to {MAX_NODES} operations was expected")
    graph = fx.Graph()
    known: dict[str, fx.Node] = {}
    tensors = {name for name, _ in (*root.named_parameters(), *root.named_buffers())}
    for place, spec in enumerate(nodes):
        only(spec, _NODE)
        name, op, target = _name(spec["name"]), spec["op"], spec["target"]
        inputs = tuple(_decode(a, known, device) for a in listed(spec["args"]))
        options = {_name(k): _decode(v, known, device) for k, v in spec["kwargs"].items()}
        if name in known or (op == "placeholder") != (place == 0) or (op == "output") != (place == len(nodes) - 1):
            raise ValueError(f"'{name}' is out of place")
        if op == "call_function":
            found = _function(target, inputs, options)
        else:
            if options or len(inputs) != (op in ("output", "call_module")):
                raise ValueError(f"'{name}' has arguments that no {op} takes")
            found = _target_of(op, target, inputs, root, tensors)
        known[name] = graph.create_node(op, found, inputs, options, name)
    called = {node.target for node in graph.nodes if node.op == "call_module"}
    for path, module in root.named_modules():
        if path not in called and type(module) is not nn.Module and not isinstance(module, WeightPoint):
            raise ValueError(f"'{path}' is never called")
    graph.lint()
    return graph


def _target_of(op: str, target: Any, inputs: tuple[Any, ...], root: nn.Module, tensors: set[str]) -> str:
    """The target of a node that calls no function, checked."""
    if op == "output" and target == "output":
        return "output"
    if op == "placeholder":
        return _name(target)
    path = _name(target, _PATH)
    if op == "get_attr" and path in tensors:
        return path
    if op == "call_module" and isinstance(inputs[0], fx.Node):
        root.get_submodule(path)
        return path
    raise ValueError(f"unknown operation '{op}' of '{target}'")


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
    if isinstance(value, list):
        return [_encode(v) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(v) for v in value]}
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
    if key == "float" and inner in ("inf", "-inf", "nan"):
        return float(inner)
    if key == "device":
        return device
    if key == "tuple":
        return tuple(_decode(v, known, device) for v in listed(inner))
    if key == "dict":
        return {_name(k): _decode(v, known, device) for k, v in inner.items()}
    if key in _NAMED and isinstance(found := getattr(torch, _name(inner), None), _NAMED[key]):
        return found
    raise ValueError(f"unknown argument {value!r}")


def _function(target: str, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    """The function of a target: pure ATen on tensors of the graph, or arithmetic on sizes."""
    space, _, name = str(target).partition("::")
    if space == "operator" and name in SIZE_OPS:
        if options or not inputs or not all(isinstance(v, (fx.Node, int, float)) for v in inputs):
            raise ValueError(f"'{target}' computes with sizes only")
        return SIZE_OPS[name]
    packet_name, _, overload = name.partition(".")
    packet = getattr(torch.ops.aten, _name(packet_name), None) if space == "aten" else None
    if not isinstance(packet, torch._ops.OpOverloadPacket) or overload not in packet.overloads():  # type: ignore[no-untyped-call]
        raise ValueError(f"unknown function '{target}'")
    function = getattr(packet, overload)
    schema = function._schema
    given = {**dict(zip((a.name for a in schema.arguments), inputs, strict=False)), **options}
    tensors = [given.get(a.name) for a in schema.arguments if "Tensor" in str(a.type)]
    reads = any(isinstance(v, fx.Node) or (isinstance(v, (list, tuple)) and any(isinstance(i, fx.Node) for i in v)) for v in tensors)
    if schema.is_mutable or not schema.returns or not (reads or packet_name in _FACTORIES):
        raise ValueError(f"function '{target}' is not allowed in a saved network")
    return function


def path_of(value: Any) -> str:
    """The path of a module or tensor: names of letters, digits, ``_`` and ``-`` with dots between them."""
    return _name(value, _PATH)


def _name(value: Any, form: re.Pattern[str] = _NAME) -> str:
    """``value`` if it is a plain name or a dotted path. Names become part of generated code, so nothing else is allowed."""
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{value!r} is not a name")
    return value
