"""Sensitivities: how far the output moves when one layer's weights, or one activation, are put on a grid (paper, equation 2).

The same forward passes also give the interaction of two such changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from zsq.errors import ZsqError
from zsq.graph import PartialRun
from zsq.grids import ActPoint, WeightPoint
from zsq.protocols import Task
from zsq.training import Extremes, Percentiles, Tracker, act_modules, watching_inputs
from zsq.types import Beat, Student

#: Most pixels and images of a forward: bounds memory, and what a CPU's caches hold; below 16 images it would be slower again.
_PIXELS, _IMAGES = 2**20, 64
#: Most numbers of an image's answer that moves are compared on, and of all moves of a part: bounds memory where answers are dense.
_NUMBERS, _MOVES = 2**14, 2**26


class Sensitivities:
    """Omega(k) = mean over images of KL(teacher || teacher with one thing on its k-bit grid), all else in float.

    ``weights[k]`` (number of layers,) and ``acts[b]`` (number of sites,) are float64 in the order of ``layers`` and
    ``sites``; a layer that is called twice is on its grid in both calls. What lies before a layer runs once per image, what
    follows once per candidate. Float32 forwards in any case, as at 8 bits divergences are near 1e-6; divergences in float64.

    ``gram`` (I, I) float64 belongs to ``items``, all (path, bits) of the latest measurement: entry (i, j) is half the mean
    over images of f_i . f_j, with f = sqrt(p) (d - <p, d>) for the teacher's probabilities p and the change d of the logits.
    That is the second order of the divergence (not in the paper): KL of several moves at once is close to the sum over all
    pairs of them, where moves are small, and the diagonal is close to Omega. No forward more than for Omega. Of an answer
    with many places, places evenly spaced stand for all; products in float32 within a part, sums over parts in float64.

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
        self.items: list[tuple[str, int]] = []
        self.gram = torch.zeros(0, 0, dtype=torch.float64)

    @torch.no_grad()
    def measure(self, weight_bits: Iterable[int], act_bits: Iterable[int] = ()) -> Iterator[Beat]:
        """Fill ``weights`` and ``acts`` for these bits, and ``gram``; a beat for every layer and site of every part of the images.

        Raises:
            ZsqError: If an output is not finite.
        """
        weights = {k: torch.zeros(len(self.layers), dtype=torch.float64) for k in weight_bits}
        acts = {b: torch.zeros(len(self.sites), dtype=torch.float64) for b in act_bits}
        todo = [path for path in self.nodes if (acts if path in self.student.acts else weights)]
        items = [(path, k) for path in self.layers for k in weights] + [(path, b) for path in self.sites for b in acts]
        rows = {item: row for row, item in enumerate(items)}
        gram = torch.zeros(len(items), len(items), dtype=torch.float64)
        parts = self._parts()
        ranges = self._ranges(parts) if acts else {}
        for number, part in enumerate(parts):
            with _floating(self.student):
                truth = self._answers(PartialRun(self.module, part))
            partial = PartialRun(self.module, part)
            places = _places(truth, len(items))
            moves = truth.new_empty((len(items), truth[..., places].numel()), dtype=torch.float32)
            for step, path in enumerate(todo, 1):
                own, known = (self.sites, acts) if path in self.student.acts else (self.layers, weights)
                with _floating(self.student):
                    partial.advance(self.nodes[path][0])
                    for bits, sums in known.items():
                        other = self._act(partial, path, bits, ranges[path]) if known is acts else self._weight(partial, path, bits)
                        sums[own.index(path)] += _compare(truth, other, places, moves[rows[path, bits]])
                yield Beat(number * len(todo) + step, len(parts) * len(todo))
            gram += (moves @ moves.T).cpu().double() / (2 * len(places))
        for into, found in ((self.weights, weights), (self.acts, acts)):
            for bits, sums in found.items():
                if not sums.isfinite().all():
                    raise ZsqError("the teacher's output on the pool is not finite", "quantizer 'pareto'", "choose another --synth")
                into[bits] = sums / len(self.inputs)
        self.items, self.gram = items, (gram + gram.T) / (2 * len(self.inputs))

    def _weight(self, partial: PartialRun, path: str, bits: int) -> Tensor:
        """Answers with the weights of one layer on the grid that a point of the student would give them."""
        layer: Any = self.module.get_submodule(path)
        own = self.student.weights[f"{path}.weight_point"]
        assert isinstance(own, WeightPoint)
        none, layer.weight_point = layer.weight_point, WeightPoint(layer.weight, bits, own.symmetric, own.axis).to(layer.weight.device)
        try:
            return self._answers(partial)
        finally:
            layer.weight_point = none

    def _act(self, partial: PartialRun, path: str, bits: int, ends: tuple[Tensor, Tensor]) -> Tensor:
        """Answers with one activation on its grid."""
        node, own = self.nodes[path][0], self.student.acts[path]
        assert isinstance(own, ActPoint)
        point = ActPoint(bits, own.symmetric)
        point.set_range(*ends)
        return self._answers(partial, {node: point(partial.values[node.all_input_nodes[0]])})

    def _answers(self, partial: PartialRun, known: Mapping[fx.Node, Tensor] | None = None) -> Tensor:
        """Logarithms of the classes' probabilities (N, K, places), float64."""
        answers = self.task.logits(partial.finish(known)).double().log_softmax(1)
        return answers.reshape(*answers.shape[:2], -1)

    def _parts(self) -> list[Tensor]:
        """The images in parts of nearly the same size."""
        size = min(_IMAGES, max(1, _PIXELS // self.inputs[0, 0].numel()))
        inputs = self.inputs
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return list(inputs.tensor_split(-(-len(inputs) // size)))

    def _ranges(self, parts: Sequence[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The range of every site's input in the float network."""
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


def _places(truth: Tensor, items: int) -> Tensor:
    """Indices of the places that moves are compared on: all, or as many as the bounds allow, evenly spaced."""
    images, classes, places = truth.shape
    room = min(_NUMBERS, _MOVES // max(images * items, 1)) // classes
    kept = max(1, min(places, room))
    return (torch.arange(kept, device=truth.device) * places + places // 2) // kept


def _compare(truth: Tensor, other: Tensor, places: Tensor, move: Tensor) -> float:
    """KL(truth || other): the sum over images, of the mean over places; and into ``move`` f of some places (see the class).

    Changes of log-probabilities and of logits differ by a number for all classes, which <p, d> takes away.
    """
    change = other - truth
    terms = -(truth.exp() * change).sum(1, keepdim=True)
    some = truth[..., places]
    move.copy_(((change[..., places] + terms[..., places]) * (some / 2).exp()).flatten())
    return max(float(terms.mean()) * len(terms), 0.0)


@contextmanager
def _floating(student: Student) -> Iterator[None]:
    """Inside, layers use their weights as they are. (Hooks that bypass the points would still run them.)"""
    layers: list[Any] = [student.module.get_submodule(path.removesuffix(".weight_point")) for path in student.weights]
    for layer in layers:
        layer.weight_point = nn.Identity()
    try:
        yield
    finally:
        for layer, point in zip(layers, student.weights.values(), strict=True):
            layer.weight_point = point
