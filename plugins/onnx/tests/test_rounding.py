"""Biases rounded in the student: what is evaluated is what the file computes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from zsq_onnx.exporter import Onnx
from zsq_onnx.rounding import IntegerBias
from zsq_onnx.verify import verify

from zsq.options import Options
from zsq.testing import conformance, teachers, world

sys.path.insert(0, str(Path(__file__).parent))
from nets import images, student, teacher

test_integer_bias = conformance("integer-bias")


def test_at_eight_bits_hardly_a_code_differs_any_more(tmp_path: Path) -> None:
    of = teacher(teachers.tiny())
    made = student(of)
    ctx = world.make_context(tmp_path, teacher=of)

    def share() -> float:
        Onnx(Options(), ctx).export(made, {}, tmp_path)
        first = verify(made.module, images(256), tmp_path)["first"]
        return 0.0 if first is None else float(first["share"])

    before = share()
    logits = made.module(images(8))
    for _ in IntegerBias(Options(), ctx).fit(made, iter(())):
        pass
    assert before > 0.02 and share() < 0.002
    assert torch.allclose(made.module(images(8)), logits, atol=0.1)
