"""The calibrator ``bias-correction`` (paper, section 4.2; from data: appendix D)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, fx, nn

from zsq.training import full_precision
from zsq.types import Batch, Beat, Context, Student, Trace
from zsq_dfq import CorrectionOptions
from zsq_dfq.graph import Graph
from zsq_dfq.layers import inputs, lower_output, respond
from zsq_dfq.moments import propagate

#: Gets a layer's output; may return a replacement for it.
See = Callable[[Tensor], Tensor | None]


class Correction:
    """Subtracts from every layer's output the mean error of its quantized weights.

    ``bn``: the error is (sum over the kernel of W~ - W) E[x], with E[x] from BatchNorm. ``stream``: the difference, on images,
    between the student and itself in float, which also contains the errors of activations and of earlier layers; layers are
    corrected in the order of execution, within one forward pass.
    """

    def __init__(self, options: CorrectionOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    @torch.no_grad()
    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Correct every layer that is used once. If closed early, ``bn`` has corrected the layers so far, ``stream`` all or none."""
        student.module.eval()
        graph = Graph(student, self.ctx)
        layers = [node for node in graph.layers() if node.target in graph.once and graph.by_channel(node)]
        if shared := sorted({str(node.target) for node in graph.layers()} - graph.once):
            self.ctx.log(f"bias-correction: left out {', '.join(shared)}: used in several places")
        work = self._from_batch_norm(graph, layers) if self.options.source == "bn" else self._from_images(graph, layers, stream)
        yield from work

    def _from_batch_norm(self, graph: Graph, layers: list[fx.Node]) -> Iterator[Beat]:
        known = propagate(graph, self.ctx.teacher.inputs)
        unknown = []
        for step, node in enumerate(layers, 1):
            layer, moments = graph.called(node), known.get(node.all_input_nodes[0])
            if moments is None or len(moments.center) != inputs(layer):
                unknown.append(str(node.target))
            else:
                weight = layer.weight.double()
                error = layer.weight_point(layer.weight).double() - self._float_weight(node, layer).double()
                lower_output(layer, graph.norm(node), respond(layer, error.to(weight), moments.mean_var[0]))
            yield Beat(step, len(layers))
        if unknown:
            self.ctx.log(f"bias-correction: left out {', '.join(unknown)}: BatchNorm does not determine their mean input")

    def _from_images(self, graph: Graph, layers: list[fx.Node], stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        parts: list[Tensor] = []
        truths: list[dict[fx.Node, Tensor]] = []
        total = 2 * self.options.batches
        for step, (batch, _) in enumerate(islice(stream, self.options.batches), 1):
            parts.append(_channels_last(batch.inputs))
            truths.append(self._truth(graph, layers, parts[-1]))
            yield Beat(step, total)
        done = {node: torch.zeros_like(mean) for node, mean in truths[0].items()}
        for number, (part, truth) in enumerate(zip(parts, truths, strict=True), 1):
            with ExitStack() as stack:
                for node in layers:
                    stack.enter_context(_hook(graph.called(node), self._corrector(graph, node, truth, done, number)))
                graph.module(part)
            yield Beat(len(parts) + number, total)

    def _truth(self, graph: Graph, layers: list[fx.Node], images: Tensor) -> dict[fx.Node, Tensor]:
        """Mean output of every layer in float, per channel."""
        means: dict[fx.Node, Tensor] = {}

        def keeping(node: fx.Node) -> See:
            def keep(out: Tensor) -> None:
                means[node] = _means(out)

            return keep

        with full_precision(graph.student), self._float_weights(graph, layers), ExitStack() as stack:
            for node in layers:
                stack.enter_context(_hook(graph.called(node), keeping(node)))
            graph.module(images)
        return means

    @staticmethod
    def _corrector(graph: Graph, node: fx.Node, truth: Mapping[fx.Node, Tensor], done: dict[fx.Node, Tensor], number: int) -> See:
        """A function that corrects a layer by the mean of its errors so far, right after the layer ran."""
        layer, norm = graph.called(node), graph.norm(node)

        def correct(out: Tensor) -> Tensor | None:
            standing = torch.zeros_like(done[node]) if norm is not None else done[node]  # already subtracted from this output
            error = _means(out) + standing - truth[node]
            step = (error - done[node]) / number
            done[node] = done[node] + step
            lower_output(layer, norm, step)
            return None if norm is not None else out - step.to(out).view(-1, *(1,) * (out.dim() - 2))

        return correct

    def _float_weight(self, node: fx.Node, layer: Any) -> Tensor:
        """A layer's float weight: its own, or the teacher's if the student's weight is frozen."""
        own: Tensor = layer.weight
        if not layer.weight_point.frozen:
            return own
        try:
            original = self.ctx.teacher.module.get_submodule(str(node.target)).weight
        except AttributeError:
            return own
        return original if isinstance(original, Tensor) and original.shape == own.shape else own

    @contextmanager
    def _float_weights(self, graph: Graph, layers: list[fx.Node]) -> Iterator[None]:
        """Inside, layers with frozen weights use the teacher's weights."""
        changed = [
            (graph.called(n), original)
            for n in layers
            if (original := self._float_weight(n, graph.called(n))) is not graph.called(n).weight
        ]
        before = [layer.weight.clone() for layer, _ in changed]
        try:
            for layer, original in changed:
                layer.weight.copy_(original)
            yield
        finally:
            for (layer, _), weight in zip(changed, before, strict=True):
                layer.weight.copy_(weight)


@contextmanager
def _hook(layer: nn.Module, see: See) -> Iterator[None]:
    """Inside, ``see`` gets the layer's output and may return a replacement."""
    handle = layer.register_forward_hook(lambda _layer, _inputs, out: see(out))
    try:
        yield
    finally:
        handle.remove()


def _means(out: Tensor) -> Tensor:
    """Mean per channel of (N, C, ...), float64."""
    return out.double().mean([d for d in range(out.dim()) if d != 1])


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
