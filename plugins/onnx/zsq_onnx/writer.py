"""Collects nodes and constants of an ONNX graph, and builds the checked model with ``onnx.helper``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Version of the operator set: the newest that every ONNX Runtime since 1.12 reads.
OPSET = 17
_IR_VERSION = 8
#: Constants up to this many elements, and all zeros, are written once and shared.
_SHARED = 16
#: Operations whose nodes have a name, which optimizers keep; all others are known by their output.
_NAMED = ("Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul")


class Writer:
    """Collects nodes; names of values and nodes are unique. Names are a good part of a small network's file."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: dict[tuple[Any, ...], str] = {}
        self._names: dict[str, int] = {}

    def node(self, op: str, inputs: Sequence[str], name: str = "", /, **attributes: Any) -> str:
        """Add a node of one output; the name of that. Without a name it gets a short one."""
        return self.several(op, inputs, name, 1, **attributes)[0]

    def several(self, op: str, inputs: Sequence[str], name: str, outputs: int, /, **attributes: Any) -> list[str]:
        """Add a node of so many outputs; their names."""
        name = self.unique(name or "v")
        results = [name, *(self.unique(name) for _ in range(outputs - 1))]
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op, list(inputs), results, name=name if op in _NAMED else None, **kept))
        return results

    def constant(self, value: Any, dtype: Any = np.float32, name: str = "c", own: bool = False) -> str:
        """The name of a constant; small equal ones and zeros are one, except those that a node has to ``own``."""
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype)).reshape(np.shape(value))
        key = (str(array.dtype), array.shape, array.tobytes()) if array.size <= _SHARED or not array.any() else ()
        key = () if own else key
        if key and key in self._known:
            return self._known[key]
        name = self.unique(name)
        self.constants.append(numpy_helper.from_array(array, name))
        if key:
            self._known[key] = name
        return name

    def unique(self, name: str) -> str:
        """``name``, or ``name_1``, ``name_2``... : the first that is free."""
        count = self._names.get(name)
        if count is None:
            self._names[name] = 0
            return name
        self._names[name] = count + 1
        return self.unique(f"{name}_{count + 1}")

    def model(self, inputs: tuple[str, Sequence[int]], outputs: Sequence[tuple[str, Sequence[int]]], metadata: Mapping[str, str],
              version: str) -> onnx.ModelProto:  # fmt: skip
        """The checked model; the first dimension of inputs and outputs is free.

        Args:
            inputs: Name and shape of the one input, without its first dimension.
            outputs: The same of every output.
            metadata: Goes into ``metadata_props``.
            version: Of the producer.
        """

        def value(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])

        graph = helper.make_graph(self.nodes, "student", [value(*inputs)], [value(*o) for o in outputs], self.constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="zsq",
            producer_version=version,
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model
