"""The exporter: ``model.xml`` and ``model.bin`` of a finished student, from the graph that the exporter ``onnx`` makes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino
from zsq_onnx.exporter import Exporter
from zsq_onnx.model import model_of

from zsq.files import write_atomic
from zsq.types import Student
from zsq_openvino.runtime import WEIGHTS, XML, OpenVinoRuntime


class OpenVino(Exporter):
    """The ONNX graph as OpenVINO reads it, constants at their own precision."""

    name = "openvino"

    def export(self, student: Student, manifest: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write ``model.bin`` and then ``model.xml``: inputs and logits as those of ``model.onnx``.

        Raises:
            ZsqError: If the student is not a graph, or holds something that has no translation; the message names it.
        """
        model = self.runtime().convert(model_of(student, manifest, self.ctx, sums=False))
        with tempfile.TemporaryDirectory() as scratch:
            openvino.serialize(model, str(Path(scratch) / XML), str(Path(scratch) / WEIGHTS))
            contents = {name: (Path(scratch) / name).read_bytes() for name in (WEIGHTS, XML)}
        return [write_atomic(folder / name, content) for name, content in contents.items()]

    def runtime(self) -> OpenVinoRuntime:
        return OpenVinoRuntime()
