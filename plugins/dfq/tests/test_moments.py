"""Moments of clipped normals, and how they propagate through a network."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from dfq_nets import Inverted, calibrate, context, settle, student_of, teacher_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zsq_dfq import BnRangeOptions, CleOptions
from zsq_dfq.equalization import Equalization
from zsq_dfq.graph import Graph
from zsq_dfq.moments import Moments, clipped_normal, propagate
from zsq_dfq.ranges import BnRange

from zsq.types import InputSpec, Student, Teacher


def doubles(*values: float) -> list[Tensor]:
    return [torch.tensor([v], dtype=torch.float64) for v in values]


@settings(max_examples=40)
@given(st.floats(-8, 8), st.floats(0.01, 4), st.sampled_from([(0.0, math.inf), (0.0, 6.0), (-math.inf, math.inf), (-1.0, 0.5), (0.0, 0.3)]))
def test_clipped_normals_against_sampling(center: float, std: float, ends: tuple[float, float]) -> None:
    mean, var = clipped_normal(*doubles(center, std**2, *ends))
    rng = torch.Generator().manual_seed(0)
    sample = (center + std * torch.randn(200_000, generator=rng, dtype=torch.float64)).clamp(*ends)
    assert float(mean) == pytest.approx(float(sample.mean()), abs=0.012 * std)
    assert float(var) == pytest.approx(float(sample.var()), abs=0.02 * std**2)


def test_the_sheets_formulas() -> None:
    """E[relu(x)] = g phi(a) + b (1 - Phi(a)) with a = -b / g; and without spread, the clipped center."""
    b, g = 0.4, 1.3
    phi, cdf = (lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi)), (lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))
    a, t = -b / g, (6 - b) / g
    relu, var = clipped_normal(*doubles(b, g * g, 0, math.inf))
    m = g * phi(a) + b * (1 - cdf(a))
    assert float(relu) == pytest.approx(m, rel=1e-9)
    assert float(var) == pytest.approx(
        (1 - cdf(a)) * (b * b + g * g + m * m - 2 * m * b) + g * (b - 2 * m) * phi(a) + m * m * cdf(a), rel=1e-9
    )
    relu6 = clipped_normal(*doubles(b, g * g, 0, 6))[0]
    assert float(relu6) == pytest.approx(g * (phi(a) - phi(t)) + b * (cdf(t) - cdf(a)) + 6 * (1 - cdf(t)), rel=1e-9)
    assert [float(x) for x in clipped_normal(*doubles(2.5, 0, 0, 6))] == pytest.approx([2.5, 0])
    assert [float(x) for x in clipped_normal(*doubles(-2.5, 0, 0, 6))] == pytest.approx([0, 0])


def known(teacher: Teacher, student: Student) -> dict[str, Moments]:
    return {node.name: value for node, value in propagate(Graph(student, context(teacher)), teacher.inputs).items()}


@pytest.mark.parametrize("first", [False, True])
def test_batch_norm_and_sums(first: bool) -> None:
    """Before and after equalization: |gamma|, not gamma, and with the current scale of the channel."""
    net = settle(Inverted(F.relu6))
    teacher = teacher_of(net)
    student = student_of(teacher)
    if first:
        calibrate(Equalization, CleOptions(), student, teacher)
    found = known(teacher, student)
    caps = student.module.expand_cap.flatten().double() if first else torch.full((12,), 6.0).double()
    scale = caps / 6
    assert torch.allclose(found["bn1"].center, net.bn1.bias * scale, rtol=1e-4)
    assert torch.allclose(found["bn1"].var.sqrt(), net.bn1.weight.abs() * scale, rtol=5e-2)
    lo, hi = found[_point_after(student, "bn1")].ends(6.0)
    assert (lo >= 0).all() and torch.allclose(
        hi, torch.minimum((net.bn1.bias + 6 * net.bn1.weight.abs()) * scale, caps).clamp_min(0), rtol=2e-2
    )
    m0, v0 = clipped_normal(net.bn0.bias.double(), found["bn0"].var, *doubles(0, 6))
    assert torch.allclose(found["add_tensor"].center, m0 + found["bn3"].center, rtol=1e-3)
    assert torch.allclose(found["add_tensor"].var, v0 + found["bn3"].var, rtol=1e-3)


def _point_after(student: Student, norm: str) -> str:
    """The activation point after the ReLU after a BatchNorm."""
    node = next(n for n in student.module.graph.nodes if n.target == norm)
    while node.target not in student.acts:
        node = next(iter(node.users))
    return node.name


def test_layers_without_batch_norm_channels_of_zeros_and_what_is_not_known() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn, self.b, self.c = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2), nn.Linear(10, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(self.b(F.relu(self.bn(self.a(x)))), (0, 0, 0, 0, 2, 2))
            x = torch.relu(x)
            return self.c(torch.cat([x.mean((2, 3))], 1)) + torch.relu(self.c(torch.sigmoid(x).mean((2, 3))))

    net = settle(Net())
    teacher = teacher_of(net)
    found = known(teacher, student_of(teacher))
    mean, var = clipped_normal(net.bn.bias.double(), found["bn"].var, *doubles(0, math.inf))
    weight = net.b.weight.double()
    expected = [float((weight[o].sum((1, 2)) * mean[2 * (o // 3) : 2 * (o // 3) + 2]).sum() + net.b.bias[o]) for o in range(6)]
    assert found["b"].center.tolist() == pytest.approx(expected, rel=1e-6)
    spread = [float((weight[o].square().sum((1, 2)) * var[2 * (o // 3) : 2 * (o // 3) + 2]).sum()) for o in range(6)]
    assert found["b"].var.tolist() == pytest.approx(spread, rel=1e-6)
    padded = found["pad_default"]
    assert padded.center[[0, 1, 8, 9]].tolist() == [0] * 4 and padded.center[2:8].tolist() == pytest.approx(expected, rel=1e-6)
    assert "sigmoid_default" not in found and "c_1" not in found and "c" in found


def test_the_image_reaches_from_black_to_white() -> None:
    net = settle(Inverted())
    teacher = teacher_of(net)
    teacher = Teacher(net, InputSpec((3, 8, 8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), teacher.task)
    student = student_of(teacher, scheme="deploy")
    calibrate(BnRange, BnRangeOptions(), student, teacher)
    point = next(iter(student.acts.values()))
    assert [float(end) for end in point.range] == pytest.approx([-2.118, 2.64], abs=1e-3)
    assert all(p.range[1].isfinite() for p in student.acts.values())


def test_ranges_are_those_of_the_channel_that_reaches_farthest() -> None:
    net = settle(Inverted(F.relu))
    teacher = teacher_of(net)
    for n in (6.0, 2.0):
        student = student_of(teacher)
        calibrate(BnRange, BnRangeOptions(deviations=n), student, teacher)
        lo, hi = student.acts[next(p for p in student.acts if p == _target(student, "bn1"))].range
        assert float(lo) == 0 and float(hi) == pytest.approx(float((net.bn1.bias + n * net.bn1.weight.abs()).max()), rel=1e-2)


def _target(student: Student, norm: str) -> str:
    name = _point_after(student, norm)
    return next(str(n.target) for n in student.module.graph.nodes if n.name == name)


def test_points_nothing_is_known_of_keep_their_range_and_are_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(torch.sigmoid(torch.relu(self.a(x))))).mean((2, 3)))

    teacher = teacher_of(Net().eval())
    student = student_of(teacher)
    said: list[str] = []
    list(BnRange(BnRangeOptions(), context(teacher, said.append)).fit(student, None))  # type: ignore[arg-type]
    first, second = student.acts.items()
    assert first[1].range[1].isfinite() and second[1].range[1].isnan() and second[0] in said[0]
