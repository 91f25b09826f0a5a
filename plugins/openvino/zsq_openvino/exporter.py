"""The exporter: ``model.xml`` and ``model.bin`` of a finished student, from the graph that the exporter ``onnx`` makes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino
from torch import Tensor, nn
from zsq_onnx.bench import bench
from zsq_onnx.exporter import model_of
from zsq_onnx.verify import verify

from zsq.files import write_atomic
from zsq.options import Options
from zsq.types import Context, Student, Teacher
from zsq_openvino.runtime import WEIGHTS, XML, OpenVinoRuntime


class OpenVino:
    """The ONNX graph as OpenVINO reads it, constants at their own precision."""

    def __init__(self, options: Options, ctx: Context) -> None:
        self.ctx = ctx

    def export(self, student: Student, manifest: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write ``model.bin`` and then ``model.xml``: inputs and logits as those of ``model.onnx``.

        Raises:
            ZsqError: When the student is not a graph, or holds something that has no translation; the message names it.
        """
        model = OpenVinoRuntime().convert(model_of(student, manifest, self.ctx))
        with tempfile.TemporaryDirectory() as scratch:
            openvino.serialize(model, str(Path(scratch) / XML), str(Path(scratch) / WEIGHTS))
            contents = {name: (Path(scratch) / name).read_bytes() for name in (WEIGHTS, XML)}
        return [write_atomic(folder / name, content) for name, content in contents.items()]

    def verify(self, module: nn.Module, images: Tensor, folder: Path) -> dict[str, Any]:
        """See ``zsq_onnx.verify.verify``."""
        return verify(module, images, folder, OpenVinoRuntime(), "openvino", self.ctx.teacher.task)

    def bench(self, teacher: Teacher, folder: Path, threads: int, batch: int) -> dict[str, Any]:
        """See ``zsq_onnx.bench.bench``."""
        return bench(teacher, folder, OpenVinoRuntime(), threads, batch)
