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
from zsq.errors import ZsqError
from zsq.format import save
from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.teachers import teacher_from
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


def student_of(teacher: Teacher, bits: int, scheme: Any, inputs: Tensor) -> Student:
    options = UniformOptions(weight_bits=bits, act_bits=bits, scheme=scheme)
    made = Uniform(options, world.make_context(Path(), teacher=teacher)).quantize(teacher, None)
    with made.observing(), torch.no_grad():
        made.module(inputs)
    made.freeze()
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
@pytest.mark.parametrize("scheme", ["deploy", "paper"])
def test_at_four_bits_it_is_finite_and_saved_as_it_is(kind: str, scheme: str, tmp_path: Path) -> None:
    network = KINDS[kind]
    teacher, inputs = teacher_of(network, network.build()), images(network.shape, 64, seed=1)
    student = student_of(teacher, 4, scheme, inputs)
    found = answers(teacher, student.module, inputs)
    assert found.isfinite().all()
    save(student, {}, tmp_path, teacher.inputs)
    assert torch.equal(answers(teacher, zsq.load(tmp_path), inputs), found)


@each
@pytest.mark.parametrize("bits", [8, 4])
def test_a_network_in_memory_goes_all_the_way(kind: str, bits: int, unchanged: Callable[[nn.Module], Callable[[], bool]]) -> None:
    """``zsq.quantize``, export, verify: through the Python door alone, and the caller's network is as it was."""
    pytest.importorskip("zsq_onnx", reason="the onnx plugin is not installed")
    network = KINDS[kind]
    module, inputs = network.build(), images(network.shape, 64, seed=1)
    still = unchanged(module)
    result = zsq.quantize(
        module, bits=bits, input_shape=network.shape, mean=0, std=1, synth=inputs, calib=("minmax", {"batches": 2}), tune="none",
        task=None if network.task == "classify" else network.task, batch_size=32, cache=False, quiet=True,
        evaluate=lambda net: {"finite": bool(first(net(inputs)).isfinite().all())},
    )  # fmt: skip
    assert still()
    assert result.metrics["finite"] == 1 and result.report["student"]["weight_bits"] == bits
    if not network.onnx:
        with pytest.raises(ZsqError) as caught:
            result.export("onnx")
        assert network.reason in str(caught.value) and len(str(caught.value).splitlines()) == 3
        return
    result.export("onnx")
    told = result.verify("onnx", inputs)
    assert told["verified"] and told["max_abs_diff"] < 0.02 * told["spread"]
    assert told["integer"] and not told["floating"]
    with torch.no_grad():
        loaded, kept = (network(inputs) for network in (zsq.load(result.folder), result.student))
        pairs = [(loaded[key], kept[key]) for key in {*loaded, *kept}] if isinstance(kept, dict) else [(loaded, kept)]
        assert all(torch.equal(one, other) for one, other in pairs)


def first(output: Any) -> Tensor:
    """A tensor of whatever a network gives."""
    return next(iter(output.values())) if isinstance(output, dict) else output  # type: ignore[no-any-return]
