"""The exporter ``onnx``: writes ``model.onnx`` of a finished student."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zsq.files import write_atomic
from zsq.options import Options
from zsq.types import Context, Student, Teacher
from zsq_onnx.model import FILE, model_of

if TYPE_CHECKING:
    from zsq_onnx.runtime import Runtime


class Exporter(ABC):
    """Base of exporters for the model of ``model_of``: its files are verified and timed in their runtime."""

    name: str

    def __init__(self, options: Options, ctx: Context) -> None:
        self.ctx = ctx

    @abstractmethod
    def runtime(self) -> Runtime:
        """The runtime of its files; imported here, because writing them does not need it."""

    def exported(self, run: Path) -> bool:
        """Whether all of its files are in the run folder."""
        return all((run / name).is_file() for name in self.runtime().files)

    def verify(self, module: nn.Module, images: Tensor, folder: Path) -> dict[str, Any]:
        """See ``zsq_onnx.verify.verify``."""
        from zsq_onnx.verify import verify

        return verify(module, images, folder, self.runtime(), self.name, self.ctx.teacher.task)

    def bench(self, teacher: Teacher, folder: Path, threads: int, batch: int) -> dict[str, Any]:
        """See ``zsq_onnx.bench.bench``."""
        from zsq_onnx.bench import bench

        return bench(teacher, folder, self.runtime(), threads, batch)


class Onnx(Exporter):
    """A graph of integer weights and activations; see ``zsq_onnx.translation`` and ``zsq_onnx.layers``. Same student, same bytes."""

    name = "onnx"

    def export(self, student: Student, manifest: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write ``model.onnx``: input ``inputs`` (batch, C, H, W), normalised as the teacher's, output ``logits``.

        Raises:
            ZsqError: If the student is not a graph, or holds something that has no translation; the message names it.
        """
        content = model_of(student, manifest, self.ctx).SerializeToString(deterministic=True)
        return [write_atomic(folder / FILE, content)]

    def runtime(self) -> Runtime:
        from zsq_onnx.runtime import OnnxRuntime

        return OnnxRuntime()
