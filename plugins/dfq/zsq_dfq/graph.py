"""Reads a student's graph by channel: layers, the BatchNorm after each, ReLUs and their bounds, links between two layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zsq.graph import arguments, node_shapes, unused_path
from zsq.types import Context, Student
from zsq_dfq.layers import KINDS, channelwise, inputs, outputs

_aten = torch.ops.aten

#: Operations that keep a channel's zero at zero and scale with it, besides those that depend on their arguments.
_HOMOGENEOUS = ("relu", "leaky_relu", "prelu", "alias", "clone", "contiguous", "detach")
_POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool", "upsample_")
_RESHAPES = ("flatten", "reshape", "view", "squeeze", "unsqueeze")


@dataclass
class Link:
    """The operations from one layer to the next. Each has one reader, keeps channels apart, keeps zero, and scales with its input.

    Args:
        first, second: Calls of the two layers.
        steps: The nodes between them, in order.
    """

    first: fx.Node
    second: fx.Node
    steps: list[fx.Node]


class Graph:
    """The graph of a student with its layers, links and chains.

    Args:
        student: A student with an ``fx.GraphModule``.
        ctx: Has the teacher with its input spec.
    """

    def __init__(self, student: Student, ctx: Context) -> None:
        assert isinstance(student.module, fx.GraphModule)
        self.student, self.module = student, student.module
        self.nodes: list[fx.Node] = list(self.module.graph.nodes)
        self.shapes = node_shapes(self.module, ctx.teacher.inputs.shape)
        calls = [str(n.target) for n in self.nodes if n.op == "call_module"]
        self.once = {path for path in calls if calls.count(path) == 1}

    def called(self, node: fx.Node) -> Any:
        """The module that a node calls; None for other nodes."""
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def layers(self) -> list[fx.Node]:
        """Calls of convolutions and linear layers, in the order of execution."""
        return [n for n in self.nodes if isinstance(self.called(n), KINDS)]

    def norm(self, node: fx.Node) -> Any:
        """The BatchNorm that is the only reader of a layer; None if there is none, or if either is used in several places."""
        found = self._norm_node(node)
        return None if found is None else self.called(found)

    def _norm_node(self, node: fx.Node) -> fx.Node | None:
        user = only_reader(node)
        return user if user is not None and self.by_channel(node) and self._is_norm(user) and node.target in self.once else None

    def links(self) -> list[Link]:
        """Every link from a layer to the next."""
        return [link for node in self.layers() if (link := self._link(node)) is not None]

    def chains(self) -> list[list[Link]]:
        """Links, joined if the layer between them is depthwise: pairs of layers, triplets, and longer chains."""
        links = self.links()
        after, before = {link.first: link for link in links}, {link.second: link for link in links}
        chains = []
        for link in links:
            if link.first in before and channelwise(self.called(link.first)):
                continue
            chain = [link]
            while channelwise(self.called(chain[-1].second)) and chain[-1].second in after:
                chain.append(after[chain[-1].second])
            chains.append(chain)
        return chains

    def _link(self, first: fx.Node) -> Link | None:
        if first.target not in self.once or not self.by_channel(first):
            return None
        steps: list[fx.Node] = []
        node = first
        while (user := only_reader(node)) is not None and self._passes(user, node):
            steps.append(user)
            node = user
        layer = self.called(user) if user is not None else None
        if user is None or not isinstance(layer, KINDS) or user.target not in self.once:
            return None
        shape = self.shapes[node]
        fits = shape[1] == inputs(layer) == outputs(self.called(first)) and (len(shape) == 2 or not isinstance(layer, nn.Linear))
        return Link(first, user, steps) if fits else None

    def by_channel(self, node: fx.Node) -> bool:
        """Whether dimension 1 of a layer's output is its channels; False for a linear layer over sequences."""
        return not isinstance(self.called(node), nn.Linear) or len(self.shapes[node]) == 2

    def _is_norm(self, node: fx.Node) -> bool:
        norm = self.called(node)
        return isinstance(norm, _BatchNorm) and norm.running_mean is not None and node.target in self.once

    def _passes(self, node: fx.Node, value: fx.Node) -> bool:
        if node not in self.shapes or value not in self.shapes or not node.args or node.args[0] is not value:
            return False
        if node.op == "call_module":
            return self._is_norm(node) or node.target in self.student.acts or type(self.called(node)) is nn.Identity
        op = name_of(node)
        if cap_of(self.module, node) is not None or op in _HOMOGENEOUS:
            return True
        return same_channels(node, self.shapes[value], self.shapes[node])


def same_channels(node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether an operation moves, pools or pads with zeros inside channels only. ``before``, ``after``: shapes of its input and output."""
    op = name_of(node)
    if before[:2] != after[:2]:
        return False
    if op in ("pad", "constant_pad_nd"):
        a = arguments(node)
        return a.get("mode", "constant") != "constant" or not (a.get("value") or 0)
    if op == "mean":
        return len(after) == 2 or len(after) == len(before)
    if op in _RESHAPES:
        return math.prod(before[2:]) == math.prod(after[2:]) == 1
    if op == "slice":
        return True
    return op.startswith(_POOLS) and arguments(node).get("divisor_override") is None


def only_reader(node: fx.Node) -> fx.Node | None:
    """The one node that reads the values of ``node``; None if there are several, or none. Reading the size does not count."""
    users = [user for user in node.users if name_of(user) != "sym_size"]
    return users[0] if len(users) == 1 and users[0].op != "output" else None


def name_of(node: fx.Node) -> str:
    """The name of a node's ATen operation, or empty."""
    return str(getattr(node.target, "_opname", "")) if node.op == "call_function" else ""


def cap_of(module: nn.Module, node: fx.Node) -> Tensor | float | None:
    """The upper bound of a ReLU-like node: inf for ReLU, a number, or a buffer with one bound per channel; None for other nodes."""
    op = name_of(node)
    if op == "relu":
        return math.inf
    if op == "relu6":
        return 6.0
    if op in ("hardtanh", "clamp", "clamp_min") and node.target in (_aten.hardtanh.default, _aten.clamp.default, _aten.clamp_min.default):
        a = arguments(node)
        lowest, highest = (a.get("min_val"), a.get("max_val")) if op == "hardtanh" else (a.get("min"), a.get("max"))
        if lowest == 0 and (highest is None or (isinstance(highest, (int, float)) and highest > 0)):
            return math.inf if highest is None else float(highest)
    if op == "minimum" and len(node.args) == 2 and isinstance(held := node.args[1], fx.Node) and held.op == "get_attr":
        owner, _, name = str(held.target).rpartition(".")
        buffer = module.get_submodule(owner)._buffers.get(name)
        if buffer is not None and len(held.users) == 1 and isinstance(read := node.args[0], fx.Node) and name_of(read) == "relu":
            return buffer
    return None


def uncap(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Replace a bounded ReLU by a ReLU without bound; returns the new node."""
    return _replace(module, node, lambda graph: graph.call_function(_aten.relu.default, (node.args[0],)))


@torch.no_grad()
def channel_caps(module: fx.GraphModule, node: fx.Node, channels: int, dims: int, near: str) -> tuple[fx.Node, Tensor]:
    """Give a bounded ReLU one bound per channel: ``minimum(relu(x), bounds)``, the same function as before.

    Args:
        module: The student's module.
        node: A ReLU with a bound.
        channels, dims: Number of channels and of dimensions of its output.
        near: Path of the layer before; the buffer is registered beside it.

    Returns:
        The node with the bound (the given node if it already has such a buffer), and the buffer, which the caller may change in place.
    """
    cap = cap_of(module, node)
    assert cap is not None
    if isinstance(cap, Tensor):
        return node, cap
    path = unused_path((module,), f"{near}_cap")
    owner, _, name = path.rpartition(".")
    like = next(module.parameters())
    buffer = torch.full((channels, *(1,) * (dims - 2)), cap, device=like.device, dtype=like.dtype)
    module.get_submodule(owner).register_buffer(name, buffer)

    def build(graph: fx.Graph) -> fx.Node:
        relu = graph.call_function(_aten.relu.default, (node.args[0],))
        return graph.call_function(_aten.minimum.default, (relu, graph.get_attr(path)))

    return _replace(module, node, build), buffer


def _replace(module: fx.GraphModule, node: fx.Node, build: Callable[[fx.Graph], fx.Node]) -> fx.Node:
    with module.graph.inserting_before(node):
        new = build(module.graph)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()
    return new
