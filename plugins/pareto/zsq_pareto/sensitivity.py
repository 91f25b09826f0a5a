"""Sensitivities: how far the output moves when one layer's weights, or one activation, are put on a grid (paper, equation 2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from zsq.builtin.ranges import Extremes, Percentiles, Tracker
from zsq.builtin.uniform.points import ActPoint, WeightPoint
from zsq.errors import ZsqError
from zsq.protocols import Task
from zsq.run.probe import act_modules, watching_inputs
from zsq.run.replay import Replay
from zsq.types import Beat, Student

#: Most pixels and images of a forward: bounds memory. Batches below 16 would be slower on one thread of a CPU.
_PIXELS, _IMAGES = 2**20, 128


class Sensitivities:
    """Omega(k) = mean over images of KL(teacher || teacher with one thing on its k-bit grid), all else in float.

    ``weights[k]`` (number of layers,) and ``acts[b]`` (number of sites,) are float64 in the order of ``layers`` and
    ``sites``; a layer that is called twice is on its grid in both calls. What lies before a layer runs once per image, what
    follows once per candidate. Float32 forwards in any case, as at 8 bits divergences are near 1e-6; divergences in float64.

    Args:
        student: Of the quantizer ``uniform``, its activations without a range. Put back as it was after every beat.
        task: Reads logits (N, K, ...) from an output.
        inputs: Images, (N, C, H, W).
        percent: Share of an activation's values inside its range; 100 are its extremes over all images.
    """

    def __init__(self, student: Student, task: Task, inputs: Tensor, percent: float = 100.0) -> None:
        self.student, self.task, self.inputs, self.percent = student, task, inputs, percent
        assert isinstance(student.module, fx.GraphModule)
        self.module = student.module
        self.nodes = calls(student)
        self.layers = [path for path in self.nodes if path not in student.acts]
        self.sites = [path for path in self.nodes if path in student.acts]
        self.weights: dict[int, Tensor] = {}
        self.acts: dict[int, Tensor] = {}

    @torch.no_grad()
    def measure(self, weight_bits: Iterable[int], act_bits: Iterable[int] = ()) -> Iterator[Beat]:
        """Fill ``weights`` and ``acts`` for these bits; a beat for every layer and site of every part of the images.

        Raises:
            ZsqError: When an output is not finite.
        """
        weights = {k: torch.zeros(len(self.layers), dtype=torch.float64) for k in weight_bits}
        acts = {b: torch.zeros(len(self.sites), dtype=torch.float64) for b in act_bits}
        todo = [path for path in self.nodes if (acts if path in self.student.acts else weights)]
        parts = self._parts()
        ranges = self._ranges(parts) if acts else {}
        for number, part in enumerate(parts):
            with _floating(self.student):
                truth = self._answers(Replay(self.module, part))
            replay = Replay(self.module, part)
            for step, path in enumerate(todo, 1):
                with _floating(self.student):
                    replay.advance(self.nodes[path][0])
                    if path in self.student.acts:
                        for bits, sums in acts.items():
                            sums[self.sites.index(path)] += self._act(replay, truth, path, bits, ranges[path])
                    else:
                        for bits, sums in weights.items():
                            sums[self.layers.index(path)] += self._weight(replay, truth, path, bits)
                yield Beat(number * len(todo) + step, len(parts) * len(todo))
        for into, found in ((self.weights, weights), (self.acts, acts)):
            for bits, sums in found.items():
                if not sums.isfinite().all():
                    raise ZsqError("the teacher's output on the pool is not finite", "quantizer 'pareto'", "choose another --synth")
                into[bits] = sums / len(self.inputs)

    def _weight(self, replay: Replay, truth: Tensor, path: str, bits: int) -> float:
        """Sum over images, with the weights of one layer on the grid that a point of the student would give them."""
        layer: Any = self.module.get_submodule(path)
        own: Any = self.student.weights[f"{path}.weight_point"]
        none, layer.weight_point = layer.weight_point, WeightPoint(layer.weight, bits, own.symmetric, own.axis).to(layer.weight.device)
        try:
            return _divergence(truth, self._answers(replay))
        finally:
            layer.weight_point = none

    def _act(self, replay: Replay, truth: Tensor, path: str, bits: int, ends: tuple[Tensor, Tensor]) -> float:
        """Sum over images, with one activation on its grid."""
        node, own = self.nodes[path][0], self.module.get_submodule(path)
        point = ActPoint(bits, own.symmetric)  # type: ignore[arg-type]
        point.set_range(*ends)
        return _divergence(truth, self._answers(replay, {node: point(replay.values[node.all_input_nodes[0]])}))

    def _answers(self, replay: Replay, known: Mapping[fx.Node, Tensor] | None = None) -> Tensor:
        """Logarithms of the classes' probabilities (N, K, ...), float64."""
        return self.task.logits(replay.finish(known)).double().log_softmax(1)

    def _parts(self) -> list[Tensor]:
        """The images in parts of nearly the same size."""
        size = min(_IMAGES, max(1, _PIXELS // self.inputs[0, 0].numel()))
        inputs = self.inputs
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return list(inputs.tensor_split(-(-len(inputs) // size)))

    def _ranges(self, parts: Sequence[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """What every site sees in the float network."""
        trackers: dict[str, Tracker] = {path: Extremes() if self.percent == 100 else Percentiles(self.percent) for path in self.sites}
        with _floating(self.student), watching_inputs(act_modules(self.student), lambda path, _point, x: trackers[path].update(x)):
            for part in parts:
                self.module(part)
        return {path: tracker.read() for path, tracker in trackers.items()}


def calls(student: Student) -> dict[str, list[fx.Node]]:
    """Path of every layer with a weight point and of every activation point to the nodes that call it, in the order of execution."""
    layers = {path.removesuffix(".weight_point") for path in student.weights}
    found: dict[str, list[fx.Node]] = {}
    assert isinstance(student.module, fx.GraphModule)
    for node in student.module.graph.nodes:
        if node.op == "call_module" and (node.target in layers or node.target in student.acts):
            found.setdefault(str(node.target), []).append(node)
    return found


def _divergence(truth: Tensor, other: Tensor) -> float:
    """KL(truth || other) over dimension 1: the sum over images, of the mean over places where an answer has several."""
    terms = (truth.exp() * (truth - other)).sum(1)
    return max(float(terms.mean()) * len(terms), 0.0)


@contextmanager
def _floating(student: Student) -> Iterator[None]:
    """Inside, layers use their weights as they are. (To bypass the points by hooks would still compute what they give.)"""
    layers: list[Any] = [student.module.get_submodule(path.removesuffix(".weight_point")) for path in student.weights]
    for layer in layers:
        layer.weight_point = nn.Identity()
    try:
        yield
    finally:
        for layer, point in zip(layers, student.weights.values(), strict=True):
            layer.weight_point = point
