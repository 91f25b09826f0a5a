"""The values of a graph's nodes as ONNX names, as floats or as integer codes; translation functions write into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from zsq.graph import node_shapes
from zsq.grids import ActPoint
from zsq.placement import without_identities
from zsq_onnx.writer import Writer


@dataclass(frozen=True)
class Codes:
    """A value as integers: ``(codes - zero_point) * scale``; ``high`` is the largest magnitude of a code without its zero point."""

    name: str
    scale: np.float32
    zero_point: int
    dtype: Any
    high: int


class Emitter:
    """The values of a graph of float or quantized layers, as far as it is translated.

    Args:
        module: A student's graph (frozen, eval mode), or a lifted teacher's.
        shape: Of one input image, (C, H, W).
        sums: Whether convolutions with float output are written as integer sums.
    """

    def __init__(self, module: fx.GraphModule, shape: tuple[int, ...], sums: bool = True) -> None:
        self.module, self.sums = module, sums
        self.writer: Writer = Writer()
        self.graph = without_identities(module)
        self.shapes = {node.name: size for node, size in node_shapes(module, shape).items()}  # the graph above is a copy
        self.floats: dict[fx.Node, Any] = {}
        self.codes: dict[fx.Node, Any] = {}
        #: Path of every activation point, with the name of its codes.
        self.points: dict[str, Codes] = {}
        #: Nodes that are written together with the point after them, and those of them that are a ReLU or clamp.
        self.late: set[fx.Node] = set()
        self.clamps: set[fx.Node] = set()
        self.padding: dict[fx.Node, list[int]] = {}

    def value(self, node: Any) -> str:
        """The float value of a node, dequantized where it exists as codes; a number as a constant."""
        if not isinstance(node, fx.Node):
            return self.writer.constant(node)
        if node not in self.floats:
            codes = self.codes[node]
            zero = self.writer.constant(codes.zero_point, codes.dtype)
            inputs = [codes.name, self.writer.constant(codes.scale), zero]
            self.floats[node] = self.writer.node("DequantizeLinear", inputs)
        return str(self.floats[node])

    def shape(self, node: object) -> tuple[int, ...]:
        """Shape of a node's value for a batch of two."""
        assert isinstance(node, fx.Node)
        return self.shapes[node.name]

    def size(self, value: Any) -> str:
        """A size, a number or a node, as an int64 tensor of one element."""
        return str(self.floats[value]) if isinstance(value, fx.Node) else self.writer.constant([value], np.int64)

    def sizes(self, values: Any) -> str:
        """Several sizes as one int64 tensor."""
        if not any(isinstance(v, fx.Node) for v in values):
            return self.writer.constant(list(values), np.int64)
        return self.writer.node("Concat", [self.size(v) for v in values], "sizes", axis=0)

    def is_point(self, node: object) -> bool:
        """Whether a node is an activation point with a range."""
        return self.point_of(node) is not None

    def point_of(self, node: object) -> ActPoint | None:
        called = self.module.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None
        return called if isinstance(called, ActPoint) and called.ranged else None

    def point_after(self, node: fx.Node) -> ActPoint | None:
        """The only user of a value if that is an activation point, directly or after a ReLU or clamp."""
        users = list(node.users)
        if len(users) != 1:
            return None
        if (point := self.point_of(users[0])) is not None:
            return point
        return self.point_after(users[0]) if users[0] in self.clamps else None

    def padded(self, source: Any, pads: list[int]) -> list[int]:
        """The padding of a convolution, with that of an operation before it which was left to it."""
        more = self.padding.get(source)
        return pads if more is None else [a + b for a, b in zip(pads, more, strict=True)]

    def path(self, node: fx.Node) -> str:
        return str(node.target) if node.op == "call_module" else node.name
