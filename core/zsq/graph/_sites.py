"""Finds the nodes where the schemes ``paper`` and ``deploy`` put activation points, and classifies nodes by their operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from zsq.graph._lifting import LAYER_OPS, arguments
from zsq.grids import LAYERS

_RELUS = ("relu", "relu6")
_CLAMPS = {"hardtanh": "min_val", "clamp": "min", "clamp_min": "min"}
_UPPER = {"hardtanh": "max_val", "clamp": "max"}
#: Operations that only move or select values of their first argument.
# fmt: off
_MOVES = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "upsample_nearest2d", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze", "permute", "transpose", "expand", "repeat",
    "flip", "roll", "slice", "select", "index_select", "narrow", "chunk", "split", "split_with_sizes", "unbind", "contiguous", "clone",
    "alias", "detach", "to",
})
# fmt: on
#: Computed in float under every scheme.
INTERPOLATIONS = frozenset({"upsample_bilinear2d", "upsample_bicubic2d"})
#: Operations on quantized operands: operands and results get a point under ``deploy``.
_COMBINES = frozenset({"add", "sub", "mul", "cat", "avg_pool2d", "adaptive_avg_pool2d", "mean", *INTERPOLATIONS})
#: Operations of ``_COMBINES`` that only join or interpolate their operands.
_JOINS = INTERPOLATIONS | {"cat"}
#: Functions computed in float. Their input gets a point under ``deploy``, so that the layer before them can run in integers.
_FLOAT_FUNCTIONS = frozenset(
    {"sigmoid", "silu", "gelu", "hardswish", "hardsigmoid", "tanh", "leaky_relu", "elu", "mish", "softplus", "softmax"}
)
#: Operations that make constants or sizes.
_CONSTANTS = frozenset({"sym_size", "arange", "full", "zeros", "ones", "scalar_tensor"})


def paper_sites(module: fx.GraphModule) -> list[fx.Node]:
    """Results of every ReLU, ReLU6 and clamp at zero, in the order of execution."""
    return [node for node in module.graph.nodes if _rectifies(node)]


def deploy_sites(module: fx.GraphModule) -> list[fx.Node]:
    """Every value that an integer kernel reads, and every result of a sum, product, concatenation or average. The network's output is
    excluded, unless a layer reads it too."""
    wanted: set[fx.Node] = set()
    read = {producer(node.args[0]) for node in module.graph.nodes if _is_layer(module, node)}
    for node in module.graph.nodes:
        if _is_layer(module, node) or (
            op_name(node) in _FLOAT_FUNCTIONS and _is_layer(module, _before_norm(module, producer(node.args[0])))
        ):
            wanted.add(producer(node.args[0]))
        elif op_name(node) in _COMBINES and _combines_activations(node):
            wanted |= {producer(value) for value in node.all_input_nodes if value.op != "get_attr"}
            wanted.add(producer(node))
    output = next(n for n in module.graph.nodes if n.op == "output")
    given = {producer(n) for n in output.all_input_nodes} - read
    sites = {_after_relu(node) for node in wanted if _holds_activations(node)} - given
    return [n for n in module.graph.nodes if n in sites and not (rectifies_only(n) and producer(n.args[0]) in sites)]


def answers(module: fx.GraphModule) -> set[fx.Node]:
    """The nodes that reach the network's output through moving, joining and interpolation only."""
    found: set[fx.Node] = set()
    left = [producer(node) for node in next(n for n in module.graph.nodes if n.op == "output").all_input_nodes]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += [producer(value) for value in node.all_input_nodes] if op_name(node) in _JOINS else []
    return found


def _before_norm(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """``node``, or its input if it is a BatchNorm."""
    if node.op == "call_module" and kind_of(module, node).startswith("BatchNorm"):
        (node,) = node.all_input_nodes
    return node


def op_name(node: fx.Node) -> str:
    """The short name of a node's function; empty for anything else."""
    return str(getattr(node.target, "_opname", "")) if node.op == "call_function" else ""


def kind_of(module: fx.GraphModule, node: fx.Node) -> str:
    """The class name of the module that a node calls."""
    return type(module.get_submodule(str(node.target))).__name__


def clamps(node: fx.Node) -> bool:
    """Whether a node is a ReLU or a clamp of any limits."""
    return op_name(node) in (*_RELUS, *_CLAMPS)


def _is_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return kind_of(module, node).removeprefix("Quant") in LAYERS
    return node.target in LAYER_OPS


def rectifies_only(node: fx.Node) -> bool:
    """Whether a node is a ReLU without an upper limit: zero is on every grid, so its output is on the grid of its input."""
    name = op_name(node)
    return name == "relu" or (name in _CLAMPS and _rectifies(node) and arguments(node).get(_UPPER.get(name, "")) is None)


def _rectifies(node: fx.Node) -> bool:
    name = op_name(node)
    return name in _RELUS or (name in _CLAMPS and arguments(node)[_CLAMPS[name]] == 0)


def _combines_activations(node: fx.Node) -> bool:
    """Whether a combining operation combines activations, not sizes or an activation with a number."""
    operands = [v for v in node.all_input_nodes if _holds_activations(v) and not _is_getitem(v)]
    return bool(operands) and (len(operands) > 1 or op_name(node) not in ("add", "sub", "mul"))


def _holds_activations(node: fx.Node) -> bool:
    """Whether a node's result is activations, not a size, a constant or a parameter."""
    if _is_getitem(node):  # of several results the first holds values, such as maxima; others may hold indices
        return bool(node.args[1] == 0) and isinstance(node.args[0].target, torch._ops.OpOverload)  # type: ignore[union-attr]
    if node.op == "call_function":
        returns = node.target._schema.returns if isinstance(node.target, torch._ops.OpOverload) else ()
        return len(returns) == 1 and op_name(node) not in _CONSTANTS
    return node.op in ("call_module", "placeholder")


def producer(node: Any) -> fx.Node:
    """The node that computed the values of ``node``, skipping operations that only move values."""
    while op_name(node) in _MOVES or _pads_with_zeros(node) or _is_split_part(node):
        node = node.args[0]
    found: fx.Node = node
    return found


def _pads_with_zeros(node: fx.Node) -> bool:
    return op_name(node) in ("pad", "constant_pad_nd") and not (arguments(node).get("value") or 0)


def _is_split_part(node: fx.Node) -> bool:
    """Whether a node is one part of a split value."""
    return _is_getitem(node) and op_name(node.args[0]) in _MOVES  # type: ignore[arg-type]


def _is_getitem(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def _after_relu(node: fx.Node) -> fx.Node:
    """The ReLU that is the only user of ``node``, else ``node``."""
    user = next(iter(node.users), None)
    return user if user is not None and len(node.users) == 1 and _rectifies(user) else node
