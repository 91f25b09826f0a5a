"""Computes mean and variance per channel of every value in a network, from BatchNorm alone (paper, section 4.2 and appendix C)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.modules.batchnorm import _BatchNorm

from zsq.graph import arguments
from zsq.types import InputSpec
from zsq_dfq.graph import Graph, cap_of, name_of, same_channels
from zsq_dfq.layers import KINDS, inputs, respond, slope_of

#: Operations that return their first argument unchanged.
_SAME = ("alias", "clone", "contiguous", "detach")


@dataclass(frozen=True)
class Moments:
    """A value per channel as a clipped normal: min(max(N(center, var), floor), ceil). All (C,), float64.

    ``limits`` are the lowest and highest value if they are known, as for the image.
    """

    center: Tensor
    var: Tensor
    floor: Tensor
    ceil: Tensor
    limits: tuple[Tensor, Tensor] | None = None

    @property
    def mean_var(self) -> tuple[Tensor, Tensor]:
        """Mean and variance after clipping."""
        return clipped_normal(self.center, self.var, self.floor, self.ceil)

    def ends(self, deviations: float) -> tuple[Tensor, Tensor]:
        """``center -+ deviations * std``, clipped."""
        if self.limits is not None:
            return self.limits
        reach = deviations * self.var.sqrt()
        lo, hi = (torch.minimum(torch.maximum(end, self.floor), self.ceil) for end in (self.center - reach, self.center + reach))
        return lo, hi

    def clipped(self, floor: Tensor | float, ceil: Tensor | float) -> Moments:
        """The moments after further clipping to [floor, ceil]."""
        lowest, highest = (torch.as_tensor(end, dtype=torch.float64, device=self.center.device).flatten() for end in (floor, ceil))

        def clip(end: Tensor) -> Tensor:
            return torch.minimum(torch.maximum(end, lowest), highest)

        limits = None if self.limits is None else (clip(self.limits[0]), clip(self.limits[1]))
        return Moments(self.center, self.var, clip(self.floor), clip(self.ceil), limits)


def normal(center: Tensor, var: Tensor) -> Moments:
    """The moments of a value that is not clipped."""
    center, var = center.detach().double(), var.detach().double()
    return Moments(center, var, torch.full_like(center, -math.inf), torch.full_like(center, math.inf))


def clipped_normal(center: Tensor, var: Tensor, floor: Tensor, ceil: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of min(max(X, floor), ceil) for X ~ N(center, var); bounds may be infinite, the variance zero.

    With u = X - center, a and b the bounds in standard deviations from the center:
    E[u] = floor' Phi(a) + ceil' (1 - Phi(b)) + s (phi(a) - phi(b)), and E[u^2] likewise.
    """
    s = var.sqrt().clamp_min(1e-12)
    low, high = floor - center, ceil - center
    a, b = low / s, high / s
    below, above = torch.special.ndtr(a), torch.special.ndtr(-b)
    inside = 1 - below - above
    pa, pb = _density(a), _density(b)
    first = _times(low, below) + _times(high, above) + s * (pa - pb)
    second = _times(low, _times(low, below)) + _times(high, _times(high, above))
    second = second + s.square() * (inside + _times(a, pa) - _times(b, pb))
    return center + first, (second - first.square()).clamp_min(0)


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """``x * weight``, where zero times infinity is zero."""
    return torch.where(weight == 0, weight, x * weight)


@torch.no_grad()
def propagate(graph: Graph, spec: InputSpec) -> dict[fx.Node, Moments]:
    """The moments of every node for which BatchNorm determines them.

    BatchNorm gives N(beta, std^2) with std = |gamma| sqrt(var / (var + eps)), regardless of its input. A convolution or linear layer
    without BatchNorm: computed as if its inputs were independent. Sums add means and variances. Pooling, moving and padding keep
    moments (too low for max-pooling; variance too high for average pooling). After other operations they are unknown until the
    next BatchNorm.
    """
    known: dict[fx.Node, Moments] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = _image(spec, next(graph.module.parameters()).device)
        elif (found := _after(graph, node, known)) is not None:
            known[node] = found
    return known


def _image(spec: InputSpec, device: torch.device) -> Moments:
    """Mean 0 and variance 1, as of normalised pixels; black and white as limits."""
    black, white = (limit.flatten() for limit in spec.limits(torch.empty((), dtype=torch.float64, device=device)))
    return replace(normal(torch.zeros_like(black), torch.ones_like(black)), limits=(black, white))


def _after(graph: Graph, node: fx.Node, known: dict[fx.Node, Moments]) -> Moments | None:
    if node.op == "call_module":
        return _module(graph, node, known.get(node.all_input_nodes[0]))
    if node.op != "call_function" or node not in graph.shapes:
        return None
    op, shape = name_of(node), graph.shapes[node]
    values = [v for v in node.all_input_nodes if v.op != "get_attr" and name_of(v) != "sym_size"]
    if op == "cat":
        return _concatenated(node, known)
    if op == "add":
        alone = len(values) == 2 and len(node.args) == 2 and not node.kwargs and all(graph.shapes.get(v) == shape for v in values)
        return _sum([known.get(v) for v in values]) if alone else None
    if len(values) != 1 or (value := known.get(values[0])) is None:
        return None
    if (cap := cap_of(graph.module, node)) is not None:
        return value.clipped(0.0, cap)
    before = graph.shapes[values[0]]
    if op in ("pad", "constant_pad_nd") and len(before) == len(shape) and before[1] != shape[1]:
        return _padded(node, value, len(before))
    return value if op in _SAME or same_channels(node, before, shape) else None


def _module(graph: Graph, node: fx.Node, value: Moments | None) -> Moments | None:
    module = graph.called(node)
    if isinstance(module, _BatchNorm):
        assert module.running_var is not None
        var = slope_of(module).square() * module.running_var.double()
        return normal(torch.zeros_like(var) if module.bias is None else module.bias, var)
    if not isinstance(module, KINDS):
        return value  # an activation point, or the marker of a feature
    layer: Any = module
    if value is None or len(value.center) != inputs(layer) or not graph.by_channel(node):
        return None
    weight = layer.weight.double()
    mean, var = value.mean_var
    center = respond(layer, weight, mean)
    return normal(center if layer.bias is None else center + layer.bias.double(), respond(layer, weight.square(), var))


def _sum(parts: list[Moments | None]) -> Moments | None:
    """Independent branches: means and variances add, and so do bounds."""
    if any(p is None or p.limits is not None for p in parts):
        return None
    first, second = parts
    assert first is not None and second is not None
    (m1, v1), (m2, v2) = first.mean_var, second.mean_var
    return Moments(m1 + m2, v1 + v2, first.floor + second.floor, first.ceil + second.ceil)


def _concatenated(node: fx.Node, known: dict[fx.Node, Moments]) -> Moments | None:
    a = arguments(node)
    parts = [known.get(v) for v in a["tensors"]]
    if a.get("dim") != 1 or any(p is None or p.limits is not None for p in parts):
        return None
    fields = ("center", "var", "floor", "ceil")
    center, var, floor, ceil = (torch.cat([getattr(p, name) for p in parts]) for name in fields)
    return Moments(center, var, floor, ceil)


def _padded(node: fx.Node, value: Moments, dims: int) -> Moments | None:
    """New channels of zeros, as in shortcuts without parameters."""
    a = arguments(node)
    pads = list(a["pad"])
    if len(pads) != 2 * (dims - 1) or any(pads[:-2]) or min(pads) < 0 or value.limits or (a.get("value") or 0):
        return None

    def pad(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, tuple(pads[-2:]))

    return Moments(pad(value.center), pad(value.var), pad(value.floor), pad(value.ceil))
