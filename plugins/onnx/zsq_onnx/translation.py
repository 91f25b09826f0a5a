"""A student's graph as ONNX nodes: where values are codes, where they are floats, and what becomes of points and layers.

A value that comes from an activation point exists as integer codes; operations that only move values move the codes, and a
``DequantizeLinear`` stands directly before each operation that calculates. With the ``QuantizeLinear`` of the next point directly
behind it, that is the pattern that runtimes replace by one integer operation.

A ReLU or clamp that goes into a point and nowhere else is done on the codes: quantizing is monotone, so that
``quantize(clamp(x, a, b)) = clamp(quantize(x), quantize(a), quantize(b))``, exactly. So is a ReLU of a value that is on a grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from zsq import grids
from zsq.errors import ZsqError
from zsq.graph import arguments, rectifies_only
from zsq.grids import ActPoint
from zsq_onnx import layers, ops
from zsq_onnx.emitter import Codes, Emitter


class Translation(Emitter):
    """Writes a graph of float or quantized layers as ONNX nodes, once; see :class:`~zsq_onnx.emitter.Emitter` for the arguments."""

    def __call__(self) -> list[str]:
        """Write all nodes; the names of the outputs."""
        self.late = {n.args[0] for n in self.graph.nodes if self.is_point(n) and self._waits(n.args[0])}
        self.clamps = {node for node in self.late if ops.bounds(node) is not None}
        outputs: list[str] = []
        for node in self.graph.nodes:
            if node in self.late:
                continue
            if node.op == "placeholder":
                self.floats[node] = self.writer.unique("inputs")
            elif node.op == "get_attr":
                self.floats[node] = self.writer.constant(_attribute(self.module, str(node.target)).detach().cpu().numpy(), None)
            elif node.op == "output":
                outputs = [self._output(value) for value in pytree.tree_leaves(node.args[0])]
            elif node.op == "call_module":
                self._call(node)
            else:
                self._function(node)
        return outputs

    def _waits(self, node: fx.Node) -> bool:
        """Whether a node is written together with the point that is its only user: a clamp, or a mean that drops dimensions."""
        return node.op == "call_function" and len(node.users) == 1 and (ops.bounds(node) is not None or ops.drops(self, node) is not None)

    def _output(self, node: fx.Node) -> str:
        return self.writer.node("Identity", [self.value(node)], "logits")

    def _call(self, node: fx.Node) -> None:
        called: Any = self.module.get_submodule(str(node.target))
        if self.is_point(node):
            self._point(node, called)
        elif isinstance(called, ActPoint):
            self.floats[node] = self.value(node.args[0])
        elif isinstance(called, nn.modules.batchnorm._BatchNorm):
            if node not in self.floats:  # not folded into the layer before it
                self.floats[node] = layers.norm(self, node, called)
        else:
            follower = layers.follower(self, node, called)
            self.floats[follower or node] = layers.layer(self, node, called, follower)

    def _point(self, node: fx.Node, point: ActPoint) -> None:
        """Quantize, clip below 8 bits or where a ReLU was, and keep the codes."""
        path, source, tail = str(node.target), node.all_input_nodes[0], None
        grid = grids.flatten(point.grid)
        if point.bits > 8:
            hint = "export with at most 8 bits: int8 is what integer kernels take"
            raise ZsqError(f"activations of {point.bits} bits have no integer kernel", f"activation point '{path}'", hint)
        low, high = grid.low, grid.high
        if source in self.late and (limits := ops.bounds(source)) is not None:
            low, high = (int(grids.encode(torch.tensor(v, dtype=torch.float32), point.grid)) for v in limits)
            source = source.all_input_nodes[0]
        elif source in self.late:
            tail = ops.drops(self, source)
        dtype: Any = np.int8 if grid.low < 0 else np.uint8
        value = self.value(source) if tail is None else ops.global_mean(self, source)
        zero, scale = self.writer.constant(grid.zero_point, dtype), self.writer.constant(np.float32(grid.scale))
        limit = np.iinfo(dtype)
        clipped = (low, high) != (limit.min, limit.max)
        name = self.writer.node("QuantizeLinear", [value, scale, zero], "" if clipped else path)
        if clipped:
            name = self.writer.node("Clip", [name, self.writer.constant(low, dtype), self.writer.constant(high, dtype)], path)
        largest = max(grid.high - grid.zero_point, grid.zero_point - grid.low, grid.high)
        codes = Codes(name, np.float32(grid.scale), grid.zero_point, dtype, largest)
        self.points[path] = codes
        if tail is not None:
            moved = self.writer.node("Squeeze", [name, self.writer.constant(tail, np.int64)])
            codes = replace(codes, name=moved)
        self.codes[node] = codes

    def _function(self, node: fx.Node) -> None:
        name = str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.target)))
        if name in ops.MOVES:
            self._move(node, name)
        elif name in ops.SIZES:
            self.floats[node] = ops.size(self, node, name)
        elif rectifies_only(node) and node.args[0] in self.codes:
            self._rectified(node)
        elif name in ops.FUNCTIONS:
            self.floats[node] = ops.FUNCTIONS[name](self, node, arguments(node))
        else:
            hint = "export the network as PyTorch sees it (--export safetensors), or replace this operation in the teacher"
            raise ZsqError(f"'{name}' has no translation to ONNX", f"operation '{node.name}'", hint)

    def _rectified(self, node: fx.Node) -> None:
        """ReLU on codes: clip at the zero_point."""
        codes = self.codes[node.all_input_nodes[0]]
        name = codes.name
        if codes.zero_point != np.iinfo(codes.dtype).min:
            name = self.writer.node("Clip", [name, self.writer.constant(codes.zero_point, codes.dtype)], node.name)
        self.codes[node] = replace(codes, name=name)

    def _left_to_the_layer(self, node: fx.Node) -> list[int] | None:
        """The padding of a node that pads an image with zeros for convolutions only: they can do it themselves."""
        if str(getattr(node.target, "_opname", "")) not in ("pad", "constant_pad_nd"):
            return None
        a = arguments(node)
        called = [self.module.get_submodule(str(u.target)) if u.op == "call_module" else None for u in node.users]
        able = all(isinstance(c, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and not isinstance(c.padding, str) for c in called)
        plain = a.get("mode", "constant") == "constant" and not a.get("value")
        return _spatial(list(a["pad"]), len(self.shape(node))) if able and plain else None

    def _move(self, node: fx.Node, name: str) -> None:
        """An operation that only moves values: done on the codes if there are any."""
        source: Any = node.args[0]
        codes = self.codes.get(source)
        if (pads := self._left_to_the_layer(node)) is not None:
            self.padding[node] = pads
            name = "alias"
        if name == "getitem":
            values = codes if codes is not None else self.floats[source]
            (self.floats if codes is None else self.codes)[node] = values[node.args[1]]
            return
        if codes is None:
            self.floats[node] = ops.MOVES[name](self, node, arguments(node), self.value(source), self.writer.constant(0.0))
            return
        zero = self.writer.constant(codes.zero_point, codes.dtype)
        moved = ops.MOVES[name](self, node, arguments(node), codes.name, zero)

        self.codes[node] = [replace(codes, name=m) for m in moved] if isinstance(moved, list) else replace(codes, name=moved)


def _spatial(pads: list[Any], rank: int) -> list[int] | None:
    """ATen's padding, last dimension first, as ONNX has it for an image; None if it is anything else."""
    if not all(isinstance(p, int) and p >= 0 for p in pads) or any(pads[2 * (rank - 2) :]):
        return None
    pairs = [*zip(pads[::2], pads[1::2], strict=True), *[(0, 0)] * rank][: rank - 2][::-1]
    return [before for before, _ in pairs] + [after for _, after in pairs]


def _attribute(module: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    found: Tensor = getattr(module.get_submodule(owner), name)
    return found
