"""The ONNX model of a student or a lifted teacher, with its metadata, in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import onnx
from torch import fx

from zsq import __version__
from zsq.errors import ZsqError
from zsq.types import Context, InputSpec, Student
from zsq_onnx.emitter import Codes
from zsq_onnx.translation import Translation

FILE = "model.onnx"


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
    translation = Translation(module, inputs.shape, sums)
    names = translation()
    output = next(n for n in module.graph.nodes if n.op == "output")
    shapes = [translation.shapes[n.name][1:] for n in output.all_input_nodes]
    outputs = list(zip(names, shapes, strict=True))
    return translation.writer.model(("inputs", inputs.shape), outputs, metadata or {}, __version__), translation.points


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
