"""A graph run in pieces: up to a node once, and from there on as often as something after it is tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx


class Replay(fx.Interpreter):
    """``Replay(module, inputs)`` stands before the first node of ``module.graph``, with the inputs given.

    ``advance(node)`` runs everything before ``node`` and keeps only what is still to be read; ``finish()`` runs all the
    rest from where it stands and gives the output, without moving; ``finish({node: value})`` does so with values of
    nodes already put in place. Everything runs under ``no_grad``; autocast is the caller's.

    Args:
        module: Usually ``Student.module``.
        inputs: Of a batch, (N, ...).
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
        """Run up to, and without, ``node``, which must not lie behind."""
        assert self.order[node] >= self.position, "a replay only moves forward"
        while self.nodes[self.position] is not node:
            self._step(self.position, self.values)
            self.position += 1

    @property
    def value(self) -> Any:
        """What the next node gives out."""
        self.env = self.values
        with torch.no_grad():
            return self._run(self.nodes[self.position])

    def finish(self, known: Mapping[fx.Node, Any] | None = None) -> Any:
        """The output of the graph, from the present position on; the position stays."""
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
