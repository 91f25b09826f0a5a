"""Where the two schemes put activation points, and what a node of a graph is: by the operations, whatever the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from zsq.graph._lifting import LAYER_OPS, arguments
from zsq.grids import LAYERS

_RELUS = ("relu", "relu6")
_CLAMPS = {"hardtanh": "min_val", "clamp": "min", "clamp_min": "min"}
_UPPER = {"hardtanh": "max_val", "clamp": "max"}
#: Operations whose result holds only values of their first argument.
# fmt: off
_MOVES = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "upsample_nearest2d", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze", "permute", "transpose", "expand", "repeat",
    "flip", "roll", "slice", "select", "index_select", "narrow", "chunk", "split", "split_with_sizes", "unbind", "contiguous", "clone",
    "alias", "detach", "to",
})
# fmt: on
#: Calculated in float under every scheme.
INTERPOLATIONS = frozenset({"upsample_bilinear2d", "upsample_bicubic2d"})
#: Operations that calculate with grids: operands and results get a point under ``deploy``.
_COMBINES = frozenset({"add", "sub", "mul", "cat", "avg_pool2d", "adaptive_avg_pool2d", "mean", *INTERPOLATIONS})
#: Those of them whose result lies among their operands: the answers of a network stay what they are.
_PASSES_ON = INTERPOLATIONS | {"cat"}
#: Functions of one value that are calculated in float: what goes in has a point under ``deploy``, so that the layer before is integer.
_CURVES = frozenset({"sigmoid", "silu", "gelu", "hardswish", "hardsigmoid", "tanh", "leaky_relu", "elu", "mish", "softplus", "softmax"})
#: Operations that make constants or sizes.
_CONSTANTS = frozenset({"sym_size", "arange", "full", "zeros", "ones", "scalar_tensor"})


def paper_sites(module: fx.GraphModule) -> list[fx.Node]:
    """Results of every ReLU, ReLU6 and clamp at zero, in the order of execution."""
    return [node for node in module.graph.nodes if _rectifies(node)]


def deploy_sites(module: fx.GraphModule) -> list[fx.Node]:
    """Every value that an integer kernel reads, or that a sum, product, concatenation or average gives out; not the output, unless a
    layer reads it too."""
    wanted: set[fx.Node] = set()
    read = {producer(node.args[0]) for node in module.graph.nodes if _is_layer(module, node)}
    for node in module.graph.nodes:
        if _is_layer(module, node) or (op_name(node) in _CURVES and _is_layer(module, _before_norm(module, producer(node.args[0])))):
            wanted.add(producer(node.args[0]))
        elif op_name(node) in _COMBINES and _floats(node):
            wanted |= {producer(value) for value in node.all_input_nodes if value.op != "get_attr"}
            wanted.add(producer(node))
    output = next(n for n in module.graph.nodes if n.op == "output")
    given = {producer(n) for n in output.all_input_nodes} - read
    settled = {_settled(node) for node in wanted if _holds_floats(node)} - given
    return [n for n in module.graph.nodes if n in settled and not (rectifies_only(n) and producer(n.args[0]) in settled)]


def answers(module: fx.GraphModule) -> set[fx.Node]:
    """What the network answers with: the values that reach the output with nothing but moving, joining and interpolation behind them."""
    found: set[fx.Node] = set()
    left = [producer(node) for node in next(n for n in module.graph.nodes if n.op == "output").all_input_nodes]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += [producer(value) for value in node.all_input_nodes] if op_name(node) in _PASSES_ON else []
    return found


def _before_norm(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """``node``, or what goes into it where it is a BatchNorm."""
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
    """Whether a node is a ReLU without an upper limit: zero being on every grid, what it gives out is on the grid that goes in."""
    name = op_name(node)
    return name == "relu" or (name in _CLAMPS and _rectifies(node) and arguments(node).get(_UPPER.get(name, "")) is None)


def _rectifies(node: fx.Node) -> bool:
    name = op_name(node)
    return name in _RELUS or (name in _CLAMPS and arguments(node)[_CLAMPS[name]] == 0)


def _floats(node: fx.Node) -> bool:
    """Whether a combining operation combines activations, not sizes or an activation with a number."""
    operands = [v for v in node.all_input_nodes if _holds_floats(v) and not _picks(v)]
    return bool(operands) and (len(operands) > 1 or op_name(node) not in ("add", "sub", "mul"))


def _holds_floats(node: fx.Node) -> bool:
    """Whether a node gives out activations: not a size, a constant or a parameter."""
    if _picks(node):  # of several results the first are values, such as maxima; others may be their places
        return bool(node.args[1] == 0) and isinstance(node.args[0].target, torch._ops.OpOverload)  # type: ignore[union-attr]
    if node.op == "call_function":
        returns = node.target._schema.returns if isinstance(node.target, torch._ops.OpOverload) else ()
        return len(returns) == 1 and op_name(node) not in _CONSTANTS
    return node.op in ("call_module", "placeholder")


def producer(node: Any) -> fx.Node:
    """The node that made the values ``node`` holds, seen through operations that only move them."""
    while op_name(node) in _MOVES or _pads_with_zeros(node) or _is_item(node):
        node = node.args[0]
    found: fx.Node = node
    return found


def _pads_with_zeros(node: fx.Node) -> bool:
    return op_name(node) in ("pad", "constant_pad_nd") and not (arguments(node).get("value") or 0)


def _is_item(node: fx.Node) -> bool:
    """Whether a node is one of the parts that values were taken apart into."""
    return _picks(node) and op_name(node.args[0]) in _MOVES  # type: ignore[arg-type]


def _picks(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def _settled(node: fx.Node) -> fx.Node:
    """``node``, or the ReLU that is its only user."""
    user = next(iter(node.users), None)
    return user if user is not None and len(node.users) == 1 and _rectifies(user) else node
