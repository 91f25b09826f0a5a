"""Runs models with OpenVINO on the CPU; implements the protocol ``zsq_onnx.runtime.Runtime``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from zsq_onnx.runtime import Optimized, Session, damaged, file_of

XML, WEIGHTS = "model.xml", "model.bin"
#: Layer types that calculate with weights, as OpenVINO names what runs.
_LAYERS = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")
#: Those that only move values, or change their type.
_MOVES = ("Input", "Output", "Const", "Reorder", "Convert", "Reshape", "Transpose", "ShapeOf", "Gather", "Split", "FakeQuantize")
_INTEGER = ("u8", "i8")


class OpenVinoRuntime:
    """Models are OpenVINO's own. A session prepares the network again for every size of batch: fixed shapes run faster."""

    title = f"openvino {openvino.get_version().partition('-')[0]}"
    files: tuple[str, ...] = (XML, WEIGHTS)

    def __init__(self) -> None:
        self.core = openvino.Core()

    def read(self, folder: Path) -> Any:
        for name in self.files:
            file_of(folder, name, "openvino")
        try:
            return self.core.read_model(str(folder / XML), str(folder / WEIGHTS))
        except Exception as error:  # RuntimeError as a rule, and others from its bindings
            raise damaged(folder, XML, "openvino", error) from error

    def convert(self, model: onnx.ModelProto) -> Any:
        found = self.core.read_model(model.SerializeToString())
        for number, op in enumerate(found.get_ordered_ops()):
            kind = op.get_type_name()
            if op.get_friendly_name().rpartition("_")[0] == kind:  # a name out of a counter that runs as long as the process
                op.set_friendly_name(f"{kind}_{number}")
        return found

    def size(self, model: Any) -> int:
        return sum(constant.data.nbytes for constant in model.get_ops() if constant.get_type_name() == "Constant")

    def values(self, model: Any) -> set[str]:
        return {name for op in model.get_ops() for output in op.outputs() for name in output.get_names()}

    def session(self, model: Any, threads: int = 1, watched: Sequence[str] = ()) -> Session:
        model = model.clone()
        if watched:
            model.add_outputs(list(watched))
        prepared: dict[tuple[int, ...], Any] = {}

        def run(images: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
            if images.shape not in prepared:
                prepared[images.shape] = self._compiled(model, images.shape, threads).create_infer_request()
            request = prepared[images.shape]
            request.infer([images], share_inputs=True)
            return [output.data for output in request.output_tensors]

        return run

    def optimized(self, model: Any) -> Optimized:
        shape = (1, *(size.get_length() for size in list(model.inputs[0].partial_shape)[1:]))
        nodes = self._compiled(model.clone(), shape, 1).get_runtime_model().get_ordered_ops()
        kinds = [(node, node.get_rt_info()["layerType"].astype(str)) for node in nodes]
        layers = [(node.get_friendly_name(), _told(node, "runtimePrecision")) for node, kind in kinds if kind in _LAYERS]
        integer = [name for name, precision in layers if precision in _INTEGER]
        floating = [name for name, precision in layers if precision not in _INTEGER]
        last = {edge.get_node().get_friendly_name() for node, kind in kinds if kind == "Output" for edge in node.input_values()}
        islands = [
            node.get_friendly_name()
            for node, kind in kinds
            if kind not in (*_LAYERS, *_MOVES) and _told(node, "outputPrecisions") not in _INTEGER and node.get_friendly_name() not in last
        ]
        return Optimized(dict(Counter(kind for _, kind in kinds)), integer, floating, islands)

    def _compiled(self, model: Any, shape: tuple[int, ...], threads: int) -> Any:
        """The network for one shape, in float32 where it is not integer."""
        model.reshape(list(shape))
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        return self.core.compile_model(model, "CPU", settings)


def _told(node: Any, key: str) -> str:
    """What OpenVINO says of the first output or the arithmetic of a node that runs."""
    return str(node.get_rt_info()[key].astype(str)).partition(",")[0].lower()
