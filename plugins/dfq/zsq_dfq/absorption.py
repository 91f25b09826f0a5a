"""The calibrator ``bias-absorption``: moves high biases into the next layer (paper, section 4.1.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from zsq.graph import arguments
from zsq.types import Batch, Beat, Context, Student, Trace
from zsq_dfq import AbsorptionOptions
from zsq_dfq.graph import Graph, Link, cap_of, channel_caps, name_of
from zsq_dfq.layers import lower_output, respond, slope_of


class Absorption:
    """Subtracts c = max(0, beta - 3 std) from a channel, which is nearly always above c, and adds its effect to the next layer's bias.

    relu(z) = relu(z - c) + c if z > c. The bound of a bounded ReLU is lowered by c, which is also exact above c; c is then at most
    the bound. Between ReLU and the next layer, values may only be moved and pooled. Layer 1 needs a BatchNorm right after it, for
    beta and std.
    """

    def __init__(self, options: AbsorptionOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    @torch.no_grad()
    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Go through all pairs of layers; does not use the stream."""
        student.module.eval()
        graph = Graph(student, self.ctx)
        links = [link for link in graph.links() if _crosses_relu(graph, link)]
        if not self.options.padded:
            links = [link for link in links if not _padded(graph, link)]
        yield Beat(1, len(links) + 1)
        for step, link in enumerate(links, 2):
            self._absorb(graph, link)
            yield Beat(step, len(links) + 1)

    def _absorb(self, graph: Graph, link: Link) -> None:
        norm, layer = graph.norm(link.first), graph.called(link.second)
        std = slope_of(norm).abs() * norm.running_var.double().sqrt()
        surplus = (norm.bias.double() - self.options.deviations * std).clamp_min(0)
        for node in link.steps:
            if (cap := cap_of(graph.module, node)) is not None:
                surplus = torch.minimum(surplus, torch.as_tensor(cap, dtype=surplus.dtype, device=surplus.device).flatten())
        if not bool(surplus.any()):
            return
        for node in list(link.steps):
            if name_of(node) != "relu" and cap_of(graph.module, node) is not None:
                shape = graph.shapes[node]
                _, buffer = channel_caps(graph.module, node, shape[1], len(shape), str(link.first.target))
                buffer.sub_(surplus.to(buffer).view(buffer.shape))
        norm.bias.sub_(surplus.to(norm.bias))
        lower_output(layer, graph.norm(link.second), -respond(layer, layer.weight.double(), surplus))


def _crosses_relu(graph: Graph, link: Link) -> bool:
    """Whether layer 1 has a BatchNorm, and the only nonlinear operation after it is a ReLU."""
    norm: Any = graph.norm(link.first)
    if norm is None or norm.bias is None:
        return False
    shaping = [n for n in link.steps[1:] if hasattr(graph.called(n), "running_var") or name_of(n) in ("prelu", "leaky_relu")]
    relus = [n for n in link.steps if cap_of(graph.module, n) is not None]
    between = link.steps[1 : link.steps.index(relus[0])] if relus else []
    return bool(relus) and not shaping and all(n.op == "call_module" for n in between)


def _padded(graph: Graph, link: Link) -> bool:
    """Whether the input of the second layer is padded with zeros."""
    layer = graph.called(link.second)
    padding = getattr(layer, "padding", 0)
    own = padding == "same" and max(layer.kernel_size) > 1 if isinstance(padding, str) else _any(padding)
    return own or any(_pads(node) for node in link.steps)


def _pads(node: fx.Node) -> bool:
    op = name_of(node)
    return op in ("pad", "constant_pad_nd") or (op.startswith("avg_pool") and _any(arguments(node).get("padding")))


def _any(padding: Any) -> bool:
    return any(padding) if isinstance(padding, (tuple, list)) else bool(padding)
