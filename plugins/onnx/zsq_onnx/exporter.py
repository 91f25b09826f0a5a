"""The exporter: ``model.onnx`` of a finished student."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from torch import Tensor, fx, nn

from zsq import __version__
from zsq.errors import ZsqError
from zsq.files import write_atomic
from zsq.options import Options
from zsq.types import Context, InputSpec, Student, Teacher
from zsq_onnx.emit import Codes, Emitter

if TYPE_CHECKING:
    from zsq_onnx.runtime import Runtime

FILE = "model.onnx"


class Exporter(ABC):
    """An exporter of what ``model_of`` gives: its files are proven and timed in their runtime."""

    name: str

    def __init__(self, options: Options, ctx: Context) -> None:
        self.ctx = ctx

    @abstractmethod
    def runtime(self) -> Runtime:
        """What runs its files; imported here, since writing them does not need it."""

    def exported(self, run: Path) -> bool:
        """Whether all of its files lie in the folder of a run."""
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
    """A graph of integer weights and activations; see ``zsq_onnx.emit`` and ``zsq_onnx.layers``. Same student, same bytes."""

    name = "onnx"

    def export(self, student: Student, manifest: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write ``model.onnx``: input ``inputs`` (batch, C, H, W), normalised as the teacher's, output ``logits``.

        Raises:
            ZsqError: When the student is not a graph, or holds something that has no translation; the message names it.
        """
        content = model_of(student, manifest, self.ctx).SerializeToString(deterministic=True)
        return [write_atomic(folder / FILE, content)]

    def runtime(self) -> Runtime:
        from zsq_onnx.runtime import OnnxRuntime

        return OnnxRuntime()


def model_of(student: Student, manifest: Mapping[str, Any], ctx: Context, sums: bool = True) -> onnx.ModelProto:
    """The student's model with metadata; what a user should know of it goes to the log. ``sums`` as for ``build``.

    Raises:
        ZsqError: As ``build``.
    """
    model, _ = build(student.module, ctx.teacher.inputs, _metadata(student, manifest, ctx.teacher.inputs), sums)
    for note in notes(student):
        ctx.log(note)
    return model


def build(module: Any, inputs: InputSpec, metadata: Mapping[str, str] | None = None,
          sums: bool = True) -> tuple[onnx.ModelProto, dict[str, Codes]]:  # fmt: skip
    """The model, and the name of every activation point's codes in it.

    Args:
        module: A student's graph, or a lifted teacher's; in eval mode.
        inputs: What it takes.
        metadata: Written into the file.
        sums: Whether convolutions whose output stays in float are written as integer sums; not every runtime needs them to be.
    """
    if not isinstance(module, fx.GraphModule):
        raise ZsqError(f"cannot export a {type(module).__name__}: not a graph", "exporter onnx", "use --quant uniform")
    emitter = Emitter(module, inputs.shape, sums)
    names = emitter()
    output = next(n for n in module.graph.nodes if n.op == "output")
    shapes = [emitter.shapes[n.name][1:] for n in output.all_input_nodes]
    outputs = list(zip(names, shapes, strict=True))
    return emitter.writer.model(("inputs", inputs.shape), outputs, metadata or {}, __version__), emitter.points


def notes(student: Student) -> list[str]:
    """What a user should know of a student's file before measuring it, one line each."""
    lines = []
    bits = [p.bits for p in student.points.values()]
    if bits and min(bits) < 8:
        lines.append("values below 8 bits lie in int8 containers: they run at int8 speed and save download size (model.safetensors)")
    if student.scheme == "paper":
        lines.append(
            "scheme 'paper' leaves inputs and sums in float and shifts weights: this graph is not integer from end to end; "
            "for speed quantize with --set quant.scheme=deploy"
        )
    return lines


def _metadata(student: Student, manifest: Mapping[str, Any], inputs: InputSpec) -> dict[str, str]:
    recipe = json.dumps(manifest.get("recipe", {}), sort_keys=True, default=str)
    teacher = manifest.get("teacher", {})

    def bits(points: Mapping[str, Any]) -> str:
        return ",".join(str(b) for b in sorted({p.bits for p in points.values()}))

    return {
        "zsq_version": __version__,
        "zsq_recipe_sha256": hashlib.sha256(recipe.encode()).hexdigest(),
        "zsq_teacher": str(teacher.get("ref", "")),
        "zsq_teacher_sha256": str(teacher.get("fingerprint", "")),
        "zsq_scheme": student.scheme,
        "zsq_weight_bits": bits(student.weights),
        "zsq_act_bits": bits(student.acts),
        "zsq_mean": json.dumps(list(inputs.mean)),
        "zsq_std": json.dumps(list(inputs.std)),
    }
