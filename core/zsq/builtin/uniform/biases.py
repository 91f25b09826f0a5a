"""Biases that integer kernels can add: whole multiples of ``s_act * s_weight``, rounded in the student before it is evaluated.

A layer that runs in integers sums products of codes, and its bias is one more integer beside them. With a BatchNorm behind the
layer that bias is ``beta + (bias - mean) * gamma / sigma`` and its step ``s_act * s_weight * |gamma| / sigma``; the rounding, half
a step at most, then goes into ``beta``. What was evaluated, saved and exported is one and the same network.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from zsq.builtin.uniform.points import ActPoint, WeightPoint
from zsq.builtin.uniform.sites import clamps, producer

#: Outputs of fewer bits leave so much room between two codes that an exporter finds an integer without moving any code.
ROOMY = 6
#: Integers of more are left alone: a channel that BatchNorm all but closed, whose bias is all there is to see.
_LARGEST = 2.0**30
#: Biases that are so near to a multiple, in steps, are one: as near as float32 comes to it.
_NEAR = 0.02


@torch.no_grad()
def round_biases(module: fx.GraphModule) -> None:
    """Round the bias of every layer that reads codes, has symmetric weights, and gives out more than ``ROOMY`` bits or floats.

    Args:
        module: A student's graph, all points frozen. Running it twice changes nothing more.
    """
    seen: set[str] = set()
    for node in without_identities(module).nodes:
        layer = _called(module, node)
        point = getattr(layer, "weight_point", None)
        if not isinstance(point, WeightPoint) or not point.symmetric or str(node.target) in seen or isinstance(layer, nn.ConvTranspose2d):
            continue  # no integer kernel, or done
        seen.add(str(node.target))
        source = _called(module, producer(node.args[0]))
        norm = _follower(module, node)
        after = _point_after(module, norm or node)
        if isinstance(source, ActPoint) and source.ranged and (after is None or after.bits > ROOMY):
            _round(layer, point, source.scale, _called(module, norm))


def without_identities(module: fx.GraphModule) -> fx.Graph:
    """A copy of the graph without the modules that only carry a name."""
    graph = copy.deepcopy(module.graph)
    for node in list(graph.nodes):
        if node.op == "call_module" and type(module.get_submodule(str(node.target))) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return graph


def _round(layer: Any, point: WeightPoint, act_scale: Tensor, norm: Any) -> None:
    """Move the bias of the layer, or the shift of the BatchNorm behind it, to the nearest multiple."""
    owner = layer if norm is None else norm
    if not isinstance(owner.bias, Tensor):
        return
    step = act_scale.double() * point.scale.double()
    bias = owner.bias.double()
    if norm is not None:
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        step = step * torch.where(factor == 0, 1.0, factor.abs())  # a channel that is shut is its bias, whatever the scale
        bias = bias + ((0.0 if layer.bias is None else layer.bias.double()) - norm.running_mean.double()) * factor
    change = (bias / step).round() * step - bias
    moves = (change.abs() > _NEAR * step) & (bias.abs() < _LARGEST * step)
    owner.bias += torch.where(moves, change, 0.0).to(owner.bias.dtype)


def _called(module: fx.GraphModule, node: Any) -> Any:
    """The module that a node calls, if any."""
    return module.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _follower(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The BatchNorm that a layer's output goes into, and nowhere else."""
    user = _only_user(node)
    norm = _called(module, user)
    return user if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_var is not None else None


def _point_after(module: fx.GraphModule, node: fx.Node) -> ActPoint | None:
    """The point that a value goes into and nowhere else, at most through clamps."""
    user = _only_user(node)
    called = _called(module, user)
    if isinstance(called, ActPoint) and called.ranged:
        return called
    return _point_after(module, user) if user is not None and clamps(user) else None
