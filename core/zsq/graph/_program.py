"""A network's forward pass as a program of ATen operations without in-place operations."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Program:
    """The operations that a network applies to its input tensor.

    Args:
        graph: A placeholder for every tensor of ``tensors`` and one for the input, then ATen operations and operators on sizes.
            ``meta["path"]`` of an operation is the path of the module that it belongs to, ``meta["dims"]`` how many dimensions its
            result has (0 where that is no tensor).
        inputs: The placeholder of the input.
        tensors: Placeholder of a parameter, buffer or constant to its path and value.
        parameters: The paths of those that are parameters.
        structure: How the flat outputs make what the network returns.
    """

    graph: fx.Graph
    inputs: fx.Node
    tensors: Mapping[fx.Node, tuple[str, Tensor]]
    parameters: frozenset[str]
    structure: pytree.TreeSpec


def out_of_place(graph: fx.Graph) -> bool:
    """Replace in-place operations. Returns False, and keeps some, if a view may share the memory that they write."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
            continue
        name = node.target._schema.name.removeprefix("aten::")
        packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
        written = node.args[0] if node.args else None
        plain = name.endswith("_") and packet is not None and node.target._overloadname in packet.overloads()
        if not plain or not isinstance(written, fx.Node) or _views(written) or written.op != "call_function":
            return False
        assert packet is not None
        later = [user for user in written.users if node < user]
        node.target = getattr(packet, node.target._overloadname)
        for user in later:
            user.replace_input_with(written, node)
    return True


def _views(node: fx.Node) -> bool:
    """Whether ``node`` is a view of another value or another value is a view of it."""
    return any(_is_view(n) for n in (node, *node.users))


def _is_view(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.target is operator.getitem
    return any(r.alias_info is not None and not r.alias_info.is_write for r in node.target._schema.returns)
