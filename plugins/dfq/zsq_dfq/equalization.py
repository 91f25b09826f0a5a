"""The calibrator ``cle``: cross-layer equalization (paper, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zsq.errors import ZsqError
from zsq.types import Batch, Beat, Context, Student, Trace
from zsq_dfq import CleOptions
from zsq_dfq.graph import Graph, Link, cap_of, channel_caps, uncap
from zsq_dfq.layers import fold_scale, input_range, output_range, scale_inputs, scale_norm, scale_outputs

#: Scales are clamped to [1 / limit, limit].
_LIMIT = 1e8
#: A channel is dead, and not equalized, if its largest weight is below this share of the largest in the tensor.
_DEAD = 1e-6


class Equalization:
    """Cross-layer equalization of pairs of layers, and of longer chains whose inner layers are depthwise.

    BatchNorm stays in the network: its scale moves into the weights before it, and its parameters become mean and standard deviation of
    its output, which every later step reads. After each beat the network computes the same as before (except with ``relu6="relu"``).
    """

    def __init__(self, options: CleOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    @torch.no_grad()
    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Move BatchNorm's scales into weights, then sweep until scales are within the tolerance; does not use the stream.

        Raises:
            ZsqError: If ranges were already set, of activations or of weights.
        """
        o = self.options
        refuse_ranges(student)
        module: Any = student.module.eval()
        graph = Graph(student, self.ctx)
        for node in graph.layers():
            if (norm := graph.norm(node)) is not None:
                fold_scale(graph.called(node), norm)
        if o.relu6 == "relu":
            for node in graph.nodes:
                cap = cap_of(module, node)
                if isinstance(cap, float) and cap < math.inf:
                    uncap(module, node)
            graph = Graph(student, self.ctx)
        chains = graph.chains()
        yield Beat(1, o.sweeps + 1)
        for sweep in range(o.sweeps):
            change = max((self._equalize(graph, chain) for chain in chains), default=0.0)
            yield Beat(sweep + 2, o.sweeps + 1, {"change": change})
            if change < o.tolerance:
                break

    def _equalize(self, graph: Graph, chain: list[Link]) -> float:
        """Make the ranges of each channel equal along a chain; returns the largest absolute logarithm of a scale."""
        nodes = [link.first for link in chain] + [chain[-1].second]
        ranges = [output_range(graph.called(node)) for node in nodes[:-1]] + [input_range(graph.called(nodes[-1]))]
        scales = chain_scales(ranges)
        for link, scale in zip(chain, scales, strict=True):
            if bool((scale != 1).any()):
                self._apply(graph, link, scale)
        return max(float((scale.log()).abs().max()) for scale in scales)

    def _apply(self, graph: Graph, link: Link, scale: Tensor) -> None:
        """Divide everything from one layer's output to the next layer's input."""
        scale_outputs(graph.called(link.first), 1 / scale)
        for number, node in enumerate(link.steps):
            if node.op == "call_module" and hasattr(norm := graph.called(node), "running_var"):
                scale_norm(norm, 1 / scale)
            elif (cap := cap_of(graph.module, node)) is not None and not (isinstance(cap, float) and math.isinf(cap)):
                shape = graph.shapes.pop(node)
                link.steps[number], buffer = channel_caps(graph.module, node, shape[1], len(shape), str(link.first.target))
                graph.shapes[link.steps[number]] = shape
                buffer.div_(scale.to(buffer).view(buffer.shape))
        scale_inputs(graph.called(link.second), scale)


def chain_scales(ranges: Sequence[Tensor]) -> list[Tensor]:
    """Scales s_k of the n - 1 links of a chain of n layers, from each layer's range per channel.

    With c = (r_1 ... r_n)^(1/n): s_1 = r_1 / c, s_k = s_(k-1) r_k / c. Dividing layer 1's outputs by s_1, multiplying layer
    k's weights by s_(k-1) / s_k and layer n's inputs by s_(n-1), all ranges become c. For two layers s = sqrt(r_1 / r_2)
    (paper, equation 11); for three the closed form for conv, depthwise, conv. A scale is 1 if a range is zero.
    """
    stacked = torch.stack([r.double() for r in ranges])
    dead = (stacked <= _DEAD * stacked.amax(1, keepdim=True)).any(0)
    logs = stacked.clamp_min(1e-300).log()
    steps = (logs - logs.mean(0)).cumsum(0)[:-1].masked_fill(dead, 0.0)
    return list(steps.exp().clamp(1 / _LIMIT, _LIMIT))


def refuse_ranges(student: Student) -> None:
    """Check that no point has a range, because equalization changes weights and activations.

    Raises:
        ZsqError: If a point has a range.
    """
    for path, point in student.points.items():
        fixed = point.ranged
        if fixed or point.frozen:
            raise ZsqError(
                f"'{path}' already has a range, but equalization would change its values",
                "calibrator 'cle'",
                "put cle before the calibrators that set ranges: --calib cle --calib bn-range",
            )
