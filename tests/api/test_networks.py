"""Networks of every kind, quantized: the student answers as the teacher does, the file as the student, and the network stays as it was."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zsq
from zsq.builtin.options import UniformOptions
from zsq.builtin.safetensors import Safetensors
from zsq.builtin.teachers import teacher_from
from zsq.builtin.uniform.quantizer import Uniform
from zsq.errors import ZsqError
from zsq.options import Options
from zsq.run.checkpoint import freeze
from zsq.testing import world
from zsq.types import Student, Teacher

sys.path.insert(0, str(Path(__file__).parent))
from networks import NETWORKS, Network, images

KINDS = {network.name: network for network in NETWORKS}
each = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.filterwarnings("ignore")


def teacher_of(network: Network, module: nn.Module) -> Teacher:
    channels = network.shape[0]
    spec = {"shape": network.shape, "mean": (0.0,) * channels, "std": (1.0,) * channels}
    task = None
    if network.task == "segment":
        segment = pytest.importorskip("zsq_segment.task", reason="the segment plugin is not installed")
        options = pytest.importorskip("zsq_segment").SegmentOptions
        task = lambda classes: segment.Segment(options(classes=classes))  # noqa: E731
    return teacher_from(copy.deepcopy(module), f"testing:{network.name}", spec, None, task=task)


def student_of(teacher: Teacher, bits: int, protocol: Any, inputs: Tensor) -> Student:
    options = UniformOptions(weight_bits=bits, act_bits=bits, protocol=protocol)
    made = Uniform(options, world.make_context(Path(), teacher=teacher)).quantize(teacher, None)
    with made.observing(), torch.no_grad():
        made.module(inputs)
    freeze(made)
    return made


@torch.no_grad()
def answers(teacher: Teacher, module: nn.Module, inputs: Tensor) -> Tensor:
    return teacher.task.logits(module(inputs))


def decibels(signal: Tensor, other: Tensor) -> float:
    """How far the signal stands out of what ``other`` adds to it."""
    noise = (signal - other).double().square().mean().clamp_min(1e-30)
    return float(10 * torch.log10(signal.double().square().mean() / noise))


@each
def test_a_student_answers_as_its_teacher_does(kind: str) -> None:
    network = KINDS[kind]
    module, inputs = network.build(), images(network.shape, 64, seed=1)
    before = world.module_state(module)
    teacher = teacher_of(network, module)
    frozen, truth = world.module_state(teacher.module), answers(teacher, teacher.module, inputs)
    assert truth.std(0).mean() > 0.01, "answers differ from image to image"
    for bits, least, same in ((16, 70, 0.98), (8, 25, 0.85)):
        student = student_of(teacher, bits, "deploy", inputs)
        found = answers(teacher, student.module, inputs)
        assert decibels(truth, found) > least
        assert (truth.argmax(1) == found.argmax(1)).float().mean() > same
    left = [row["path"] for row in student.layers if row["params"] and not row["wrapped"] and row["type"][:9] != "BatchNorm"]
    assert left == list(network.floats)
    assert not world.changed(frozen, world.module_state(teacher.module)) and not world.changed(before, world.module_state(module))


@each
@pytest.mark.parametrize("protocol", ["deploy", "paper"])
def test_at_four_bits_it_is_finite_and_saved_as_it_is(kind: str, protocol: str, tmp_path: Path) -> None:
    network = KINDS[kind]
    teacher, inputs = teacher_of(network, network.build()), images(network.shape, 64, seed=1)
    student = student_of(teacher, 4, protocol, inputs)
    found = answers(teacher, student.module, inputs)
    assert found.isfinite().all()
    Safetensors(Options(), world.make_context(tmp_path, teacher=teacher)).export(student, {}, tmp_path)
    assert torch.equal(answers(teacher, zsq.load(tmp_path), inputs), found)


@pytest.fixture
def exporter(bits: int, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The exporter ``onnx``. On processors whose sums of 8-bit products saturate, the file is run as it is written, in float."""
    runtime = pytest.importorskip("zsq_onnx.runtime", reason="the onnx plugin is not installed")
    import onnxruntime
    from zsq_onnx.exporter import Onnx

    optimized = runtime._open

    def opened(model: bytes, threads: int = 1, save: Path | None = None) -> Any:
        if save is not None or bits < 8 or "without" not in runtime.instruction_set():
            return optimized(model, threads, save)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(runtime, "_open", opened)
    return Onnx


@each
@pytest.mark.parametrize(("bits", "protocol"), [(8, "deploy"), (4, "deploy"), (4, "paper")])
def test_its_file_computes_what_the_student_computes(kind: str, bits: int, protocol: str, exporter: Any, tmp_path: Path) -> None:
    network = KINDS[kind]
    teacher, inputs = teacher_of(network, network.build()), images(network.shape, 64, seed=1)
    student = student_of(teacher, bits, protocol, inputs)
    made = exporter(Options(), world.make_context(tmp_path, teacher=teacher))
    if not network.onnx:
        with pytest.raises(ZsqError) as caught:
            made.export(student, {}, tmp_path)
        assert network.reason in str(caught.value) and len(str(caught.value).splitlines()) == 3
        return
    made.export(student, {}, tmp_path)
    told = made.verify(student.module, inputs, tmp_path)
    assert told["argmax_agreement"] >= 99.9
    assert told["max_abs_diff"] < 0.02 * told["spread"]
    assert protocol == "paper" or (told["integer"] and not told["floating"])
