"""Rounds biases to whole multiples of ``s_act * s_weight``, which integer kernels can add, before the student is evaluated.

An integer layer sums products of codes and adds an integer bias. When a BatchNorm follows the
layer, that bias is ``beta + (bias - mean) * gamma / sigma`` and its step ``s_act * s_weight * |gamma| / sigma``; the rounding, half
a step at most, then goes into ``beta``. So the evaluated, the saved and the exported network are identical.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from zsq.graph import clamps, producer, rectifies_only
from zsq.grids import ActPoint, QuantLayer

#: Outputs of at most this many bits: their steps are so wide that an exporter can round the bias without changing any code.
ROOMY = 6
#: Larger biases are not rounded. They occur in channels with a BatchNorm factor near zero, where only the bias matters.
_LARGEST = 2.0**30
#: Biases this close to a multiple, in steps, count as rounded already: float32 comes no closer.
_TOLERANCE = 0.02


class OnCodes(NamedTuple):
    """A layer that reads codes, the point of its input, and the BatchNorm and the point that follow it (or None)."""

    layer: Any
    source: ActPoint
    norm: Any
    after: ActPoint | None

    def terms(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per channel, float64, with BatchNorm folded in: the scale of the weights, the bias in steps of ``s_in * scale``, and the sign of
        the BatchNorm factor. A channel with factor 0 has sign 0; its scale has no meaning."""
        scale = self.layer.weight_point.scale.double().expand(len(self.layer.weight))
        bias = torch.zeros_like(scale) if self.layer.bias is None else self.layer.bias.double()
        sign = torch.ones_like(scale)
        if self.norm is not None:
            gamma = sign if self.norm.weight is None else self.norm.weight.double()
            factor = gamma / (self.norm.running_var.double() + self.norm.eps).sqrt()
            shift = 0.0 if self.norm.bias is None else self.norm.bias.double()
            bias = shift + (bias - self.norm.running_mean.double()) * factor
            scale, sign = scale * torch.where(factor == 0, 1.0, factor.abs()), factor.sign()
        return scale, bias / (self.source.scale.double() * scale), sign


def layers_on_codes(module: fx.GraphModule) -> Iterator[OnCodes]:
    """Layers with symmetric weights that read only the values of an activation point with a range."""
    nodes = [n for n in without_identities(module).nodes if n.op == "call_module"]
    calls = Counter(str(n.target) for n in nodes)
    for node in nodes:
        layer = _called(module, node)
        if (
            not isinstance(layer, QuantLayer)
            or not layer.weight_point.symmetric
            or isinstance(layer, nn.ConvTranspose2d)
            or calls[str(node.target)] > 1
        ):
            continue
        source, norm = _called(module, _source(node.args[0])), _follower(module, node)
        if isinstance(source, ActPoint) and source.ranged:
            yield OnCodes(layer, source, _called(module, norm), _point_after(module, norm or node))


@torch.no_grad()
def round_biases(module: fx.GraphModule) -> None:
    """Round the bias of every layer that reads codes, if its output has more than ``ROOMY`` bits or stays in float.

    Args:
        module: A student's graph, all points frozen. A second call changes nothing.
    """
    for found in layers_on_codes(module):
        owner = found.layer if found.norm is None else found.norm
        if isinstance(owner.bias, Tensor) and (found.after is None or found.after.bits > ROOMY):
            scale, bias, _ = found.terms()
            change = bias.round() - bias
            moves = (change.abs() > _TOLERANCE) & (bias.abs() < _LARGEST)
            owner.bias += torch.where(moves, change * found.source.scale.double() * scale, 0.0).to(owner.bias.dtype)


def without_identities(module: fx.GraphModule) -> fx.Graph:
    """A copy of the graph without ``nn.Identity`` modules, which only carry the name of a module of the teacher."""
    graph = copy.deepcopy(module.graph)
    for node in list(graph.nodes):
        if node.op == "call_module" and type(module.get_submodule(str(node.target))) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return graph


def _called(module: fx.GraphModule, node: Any) -> Any:
    """The module that a node calls, if any."""
    return module.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None


def _source(node: Any) -> fx.Node:
    """The node that produced the values, skipping operations that only move values and ReLUs, which keep values on their grid."""
    found: fx.Node = producer(node)
    while rectifies_only(found):
        found = producer(found.args[0])
    return found


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _follower(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The BatchNorm that is the only user of a layer's output, or None."""
    user = _only_user(node)
    norm = _called(module, user)
    return user if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_var is not None else None


def _point_after(module: fx.GraphModule, node: fx.Node) -> ActPoint | None:
    """The point that is the only user of a value, directly or after clamps, or None."""
    user = _only_user(node)
    called = _called(module, user)
    if isinstance(called, ActPoint) and called.ranged:
        return called
    return _point_after(module, user) if user is not None and clamps(user) else None
