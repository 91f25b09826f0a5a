"""Runs a graph: whole, with something kept of every node, or in pieces, from a node on as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx


@torch.no_grad()
def node_values(module: fx.GraphModule, inputs: Tensor, keep: Callable[[Any], Any] = lambda value: value) -> tuple[Any, dict[fx.Node, Any]]:
    """The output of a graph for ``inputs`` (N, ...), and ``keep(value)`` of the value of every node."""
    kept: dict[fx.Node, Any] = {}

    class Keeping(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            kept[n] = keep(value)
            return value

    return Keeping(module).run(inputs), kept


def node_shapes(module: fx.GraphModule, shape: tuple[int, ...]) -> dict[fx.Node, tuple[int, ...]]:
    """The shape of every tensor in a graph for two images of ``shape`` (C, H, W)."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    inputs = torch.zeros((2, *shape), device=device)
    _, shapes = node_values(module, inputs, lambda value: tuple(value.shape) if isinstance(value, Tensor) else None)
    return {node: found for node, found in shapes.items() if found is not None}


class PartialRun(fx.Interpreter):
    """Runs ``module.graph`` up to a node, and from there to the end as often as needed.

    ``advance(node)`` runs everything before ``node`` and keeps only the values that are still read. ``finish()`` runs the rest and
    returns the output; the position stays. ``finish({node: value})`` does the same, but uses these values
    instead of computing them. Everything runs under ``no_grad``; the caller sets autocast.

    Args:
        module: Usually ``Student.module``.
        inputs: A batch (N, ...).
    """

    def __init__(self, module: fx.GraphModule, inputs: Tensor) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.nodes: list[fx.Node] = list(module.graph.nodes)
        self.order: dict[fx.Node, int] = {node: number for number, node in enumerate(self.nodes)}
        self.last: dict[fx.Node, int] = {node: max((self.order[user] for user in node.users), default=-1) for node in self.nodes}
        self.position = 0
        self.values: dict[fx.Node, Any] = {}
        self.inputs = inputs

    def advance(self, node: fx.Node) -> None:
        """Run everything before ``node``, which must not come before the position."""
        assert self.order[node] >= self.position, "a partial run only moves forward"
        while self.nodes[self.position] is not node:
            self._step(self.position, self.values)
            self.position += 1

    @property
    def value(self) -> Any:
        """The value of the next node."""
        self.env = self.values
        with torch.no_grad():
            return self._run(self.nodes[self.position])

    def finish(self, known: Mapping[fx.Node, Any] | None = None) -> Any:
        """The output of the graph, run from the position on; the position stays."""
        values = {**self.values, **(known or {})}
        output: Any = None
        for number in range(self.position, len(self.nodes)):
            output = self._step(number, values)
        return output

    def _step(self, number: int, values: dict[fx.Node, Any]) -> Any:
        node = self.nodes[number]
        if node not in values:
            self.env = values
            with torch.no_grad():
                values[node] = self._run(node)
        for read in node.all_input_nodes:
            if self.last[read] <= number:
                values.pop(read, None)
        return values[node]

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.inputs
        return self.run_node(node)
