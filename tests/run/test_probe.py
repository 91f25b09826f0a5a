"""The probe: fused channel statistics, and running no more than the needs name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zsq._builtin.classify import Classify
from zsq._builtin.options import ClassifyOptions
from zsq.training import Probe, batch_norms, channel_stats, choose_precision
from zsq.types import Batch, InputSpec, Precision, Student, Teacher


class Counting(nn.Sequential):
    """A tiny network that counts its forwards."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


def network() -> Counting:
    torch.manual_seed(0)
    return Counting(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


@pytest.fixture
def probe() -> Probe:
    module = network().requires_grad_(False)
    teacher = Teacher(module, InputSpec((3, 8, 8), (0.5,) * 3, (0.5,) * 3), Classify(ClassifyOptions(classes=5), None), taps=("2",))
    student = Student(network(), {}, {"2": "2"})
    return Probe(teacher, Precision("fp32"), student)


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 7), (4, 3, 6, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channel_stats_equal_the_plain_formula(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + 3).to(dtype)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    dims = [d for d in range(x.dim()) if d != 1]
    mean, var = channel_stats(x)
    assert mean.dtype == var.dtype == torch.float32
    torch.testing.assert_close(mean, x.float().mean(dims), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(var, x.float().var(dims, unbiased=False), rtol=1e-4, atol=1e-4)


def test_channel_stats_have_the_plain_gradient() -> None:
    x = torch.randn((4, 3, 5, 5), generator=torch.Generator().manual_seed(2))
    grads = []
    for stats in (channel_stats, lambda y: (y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False))):
        y = x.clone().requires_grad_()
        mean, var = stats(y)
        (mean.square().sum() + var.pow(3).sum()).backward()
        grads.append(y.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)


def test_only_named_networks_run(probe: Probe) -> None:
    batch = Batch(torch.randn(2, 3, 8, 8))
    view = probe(batch, {"student.output"})
    assert view.teacher is None and probe.teacher.module.calls == 0
    view = probe(batch, {"teacher.output", "teacher.bn"})
    assert view.student is None and set(view.teacher.bn) == {"1"} and not view.teacher.features
    view = probe(batch, {"teacher.features", "student.features"})
    assert view.teacher.features["2"].shape == view.student.features["2"].shape == (2, 4, 6, 6)


def test_a_cached_trace_is_reused_only_when_it_holds_enough(probe: Probe) -> None:
    batch = Batch(torch.randn(2, 3, 8, 8))
    cached = probe(batch, {"teacher.output"}).teacher
    assert probe(batch, {"teacher.output"}, teacher=cached).teacher is cached and probe.teacher.module.calls == 1
    assert probe(batch, {"teacher.bn"}, teacher=cached).teacher is not cached and probe.teacher.module.calls == 2


def test_also_captures_for_the_other_player(probe: Probe) -> None:
    probe.also = frozenset({"teacher.features"})
    assert "2" in probe(Batch(torch.randn(2, 3, 8, 8)), {"teacher.output"}).teacher.features


def test_gradient_reaches_the_inputs_and_leaves_no_trace(probe: Probe) -> None:
    inputs = torch.randn(2, 3, 8, 8, requires_grad=True)
    view = probe(Batch(inputs), {"teacher.output", "teacher.bn"})
    (view.teacher.output.sum() + view.teacher.bn["1"].mean.sum()).backward()
    assert inputs.grad is not None and inputs.grad.abs().sum() > 0
    assert all(p.grad is None for p in probe.teacher.module.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in probe.teacher.module.modules())


def test_batch_norms_without_running_statistics_are_left_out() -> None:
    assert batch_norms(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm1d(2))).keys() == {"1"}


def test_precision_is_fp32_for_fine_grids_and_when_asked() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu, 8).name == "fp32" and choose_precision("fp32", cpu, 2).name == "fp32"
    assert choose_precision("bf16", cpu, 8).name == "bf16"
