"""Absorption and bias correction: which values change, in which direction, and which stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dfq_nets import Inverted, calibrate, context, distance, in_float, settle, student_of, teacher_of
from torch import Tensor, nn
from zsq_dfq import AbsorptionOptions, BnRangeOptions, CleOptions, CorrectionOptions
from zsq_dfq.absorption import Absorption
from zsq_dfq.correction import Correction
from zsq_dfq.equalization import Equalization
from zsq_dfq.ranges import BnRange

from zsq.testing.world import digest, make_batch, make_stream
from zsq.training import full_precision
from zsq.types import Student, Teacher


class Pointwise(nn.Module):
    """Two pairs without borders: absorption changes only values below c."""

    def __init__(self, act: Any, bias: bool = True, norm: bool = True) -> None:
        super().__init__()
        self.act, self.pool = act, nn.MaxPool2d(2)
        self.a, self.bn1 = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.b, self.bn2 = nn.Conv2d(6, 8, 1, groups=2, bias=bias), nn.BatchNorm2d(8) if norm else nn.Identity()
        self.c = nn.Linear(8, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.a(x)))
        return self.c(self.act(self.bn2(self.b(self.pool(x)))).mean((2, 3)))


def high(module: Any) -> nn.Module:
    """Settled, with channels that are nearly always on, nearly always off, and in between."""
    return settle(module, spread=0.3, betas=(4.5, -4.0, 0.5, 7.0, 4.0, 2.0, 5.5, 5.0))


@pytest.mark.parametrize("act", [F.relu, F.relu6])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_absorption_keeps_the_function_where_there_are_no_borders(act: Any, norm: bool, bias: bool, first: bool) -> None:
    teacher = teacher_of(high(Pointwise(act, bias, norm)))
    student = student_of(teacher)
    inputs = make_batch(teacher, 64).inputs
    if first:
        calibrate(Equalization, CleOptions(), student, teacher)
    before = [norm.bias.detach().clone() for norm in student.module.modules() if isinstance(norm, nn.BatchNorm2d)]
    calibrate(Absorption, AbsorptionOptions(), student, teacher)
    after = [norm.bias.detach() for norm in student.module.modules() if isinstance(norm, nn.BatchNorm2d)]
    moved = [b - a for b, a in zip(before, after, strict=True)]
    assert all((m >= 0).all() and (m > 0).any() for m in moved)
    assert 0 < distance(in_float(student, inputs), teacher.module(inputs)) < 0.02


def test_what_is_absorbed() -> None:
    """c = max(0, beta - 3 |gamma|), also where gamma is negative; a bound is lowered by c, and c is at most the bound."""
    net: Any = high(Pointwise(F.relu6))
    with torch.no_grad():
        net.bn1.weight.copy_(torch.tensor([1.0, 1.0, -1.0, 0.1, -0.5, 1.0]))
        net.bn1.bias.copy_(torch.tensor([4.0, -4.0, 4.0, 9.0, 2.5, 1.0]))
    teacher = teacher_of(net)
    student = student_of(teacher)
    calibrate(Absorption, AbsorptionOptions(), student, teacher)
    moved = net.bn1.bias - student.module.bn1.bias.detach()
    assert moved.tolist() == pytest.approx([1.0, 0, 1.0, 6.0, 1.0, 0], abs=0.05)
    assert student.module.a_cap.flatten().tolist() == pytest.approx([5.0, 6, 5.0, 0.0, 5.0, 6], abs=0.05)


def test_absorption_at_borders_has_to_be_asked_for() -> None:
    teacher = teacher_of(settle(Inverted(F.relu)))
    students = [student_of(teacher) for _ in range(2)]
    for student, padded in zip(students, (True, False), strict=True):
        with torch.no_grad():
            student.module.bn1.bias.add_(30)
        calibrate(Absorption, AbsorptionOptions(padded=padded), student, teacher)
    shifted = [bool((s.module.bn1.bias < 20).any()) for s in students]
    assert shifted == [True, False]


def test_nothing_is_absorbed_across_what_is_no_relu() -> None:
    teacher = teacher_of(high(Pointwise(lambda x: F.leaky_relu(x, 0.1))))
    student = student_of(teacher)
    before = digest(student.module)
    calibrate(Absorption, AbsorptionOptions(), student, teacher)
    assert digest(student.module) == before


# -- correction -----------------------------------------------------------------------------------------------------------


class NoNorm(nn.Module):
    """Layers without BatchNorm, one of them depthwise, one without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.c, self.d = nn.Conv2d(6, 6, 1, groups=6, bias=False), nn.Conv2d(6, 8, 1), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(F.relu(self.c(self.b(F.relu(self.bn(self.a(x)))))).mean((2, 3)))


NETS = {
    "relu6": lambda: settle(Inverted(F.relu6), 0.3),
    "relu": lambda: settle(Inverted(F.relu, bias=True), 0.3),
    "no BatchNorm": lambda: settle(NoNorm(), 0.3),
}

#: Outputs of layers with a mean input other than the image, which is assumed to have mean zero.
NORMS = ("bn1", "bn2", "bn3", "bn4")


@torch.no_grad()
def layer_means(student: Student, inputs: Tensor, in_full: bool) -> dict[str, Tensor]:
    """Mean per channel of the output of every layer with the BatchNorm after it."""
    seen: dict[str, Tensor] = {}
    watched = {p: m for p, m in student.module.named_modules() if isinstance(m, (nn.BatchNorm2d, nn.Linear, nn.Conv2d))}
    hooks = [
        m.register_forward_hook(lambda _m, _x, out, p=p: seen.__setitem__(p, out.mean([d for d in range(out.dim()) if d != 1])))
        for p, m in watched.items()
    ]
    if in_full:
        with full_precision(student):
            student.module(inputs)
    else:
        student.module(inputs)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("cle", [True, False])
@pytest.mark.parametrize("source", ["bn", "stream"])
@pytest.mark.parametrize(("name", "outputs"), [("relu6", NORMS), ("relu", NORMS), ("no BatchNorm", ("b", "c", "d"))])
def test_corrected_means_are_nearer(name: str, outputs: tuple[str, ...], source: str, cle: bool) -> None:
    """Layer by layer, on other images than those of the stream; the wrong sign would double every error."""
    teacher = teacher_of(NETS[name]())
    student = student_of(teacher, weight_bits=4, act_bits=None)
    if cle:
        calibrate(Equalization, CleOptions(), student, teacher)
    inputs = make_batch(teacher, 512, seed=11).inputs
    truth, before = layer_means(student, inputs, True), layer_means(student, inputs, False)
    stream = make_stream(teacher, student, batch_size=16)
    list(Correction(CorrectionOptions(source=source, batches=16), context(teacher)).fit(student, stream))
    after = layer_means(student, inputs, False)
    errors = [sum(float((seen[path] - truth[path]).norm() / truth[path].norm()) for path in outputs) for seen in (before, after)]
    assert errors[1] < (0.7 if source == "bn" else 0.5) * errors[0], errors


def test_the_correction_of_a_depthwise_layer_is_elementwise() -> None:
    """Exactly (sum of W~ - W) E[x], channel by channel, into BatchNorm's running mean; no weight moves."""
    teacher = teacher_of(settle(Inverted(F.relu)))
    student = student_of(teacher, weight_bits=4, act_bits=None)
    layer: Any = student.module.depthwise
    error = (layer.weight_point(layer.weight) - layer.weight).detach().sum((1, 2, 3))
    norm: Any = teacher.module.bn1
    gauss = torch.distributions.Normal(0.0, 1.0)
    g, a = norm.weight.abs(), -norm.bias / norm.weight.abs()
    mean = g * gauss.log_prob(a).exp() + norm.bias * (1 - gauss.cdf(a))
    before = student.module.bn2.running_mean.clone()
    weights = [p.weight.detach().clone() for p in student.module.modules() if isinstance(p, nn.Conv2d)]
    calibrate(Correction, CorrectionOptions(), student, teacher)
    assert torch.allclose(student.module.bn2.running_mean - before, error * mean, rtol=1e-2, atol=1e-4)
    assert all(
        torch.equal(w, p.weight) for w, p in zip(weights, [p for p in student.module.modules() if isinstance(p, nn.Conv2d)], strict=True)
    )


def test_a_bias_is_made_where_there_is_none() -> None:
    teacher = teacher_of(settle(NoNorm()))
    student = student_of(teacher, weight_bits=3)
    calibrate(Correction, CorrectionOptions(), student, teacher)
    assert student.module.b.bias.shape == (6,) and student.module.d.bias.shape == (4,) and student.module.b.bias.any()


@pytest.mark.parametrize("source", ["bn", "stream"])
def test_weights_frozen_by_their_quantizer_are_compared_with_the_teachers(source: str) -> None:
    teacher = teacher_of(settle(Inverted(F.relu), 0.3))
    students = [student_of(teacher, weight_bits=3, act_bits=None) for _ in range(2)]
    for point in students[1].weights.values():
        point.freeze()  # type: ignore[attr-defined]
    for student in students:
        stream = make_stream(teacher, student, batch_size=16)
        list(Correction(CorrectionOptions(source=source, batches=2), context(teacher)).fit(student, stream))
    live, frozen = ([b for n, b in s.module.named_buffers() if n.endswith("running_mean")] for s in students)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(live, frozen, strict=True))


def test_what_cannot_be_corrected_is_named_and_left() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.twice = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.twice(torch.relu(self.twice(self.b(torch.sigmoid(self.a(x))).mean((2, 3)))))

    teacher = teacher_of(Net().eval())
    student = student_of(teacher, weight_bits=3)
    before = [student.module.b.bias.clone(), student.module.twice.bias.clone()]
    said: list[str] = []
    list(Correction(CorrectionOptions(), context(teacher, said.append)).fit(student, None))  # type: ignore[arg-type]
    assert "twice" in said[0] and "b:" in said[1]
    assert torch.equal(student.module.b.bias, before[0]) and torch.equal(student.module.twice.bias, before[1])


def test_stream_correction_closed_while_it_watches_changes_nothing() -> None:
    teacher = teacher_of(settle(Inverted()))
    student = student_of(teacher)
    before = digest(student.module)
    work = Correction(CorrectionOptions(source="stream"), context(teacher)).fit(student, make_stream(teacher, student))
    next(work)
    work.close()  # type: ignore[attr-defined]
    assert digest(student.module) == before


def dfq(teacher: Teacher, student: Student) -> None:
    calibrate(Equalization, CleOptions(), student, teacher)
    calibrate(Absorption, AbsorptionOptions(), student, teacher)
    calibrate(BnRange, BnRangeOptions(), student, teacher)
    calibrate(Correction, CorrectionOptions(), student, teacher)


def test_the_whole_chain_recovers_what_one_scale_per_tensor_loses() -> None:
    errors = torch.zeros(2)
    for seed in range(3):
        torch.manual_seed(seed)
        teacher = teacher_of(settle(Inverted(F.relu6), spread=2.0))
        inputs = make_batch(teacher, 128).inputs
        naive, ours = student_of(teacher, weight_bits=5), student_of(teacher, weight_bits=5)
        calibrate(Equalization, CleOptions(sweeps=0), naive, teacher)
        calibrate(BnRange, BnRangeOptions(), naive, teacher)
        dfq(teacher, ours)
        with torch.no_grad():
            errors += torch.tensor([distance(s.module(inputs), teacher.module(inputs)) for s in (naive, ours)])
    assert errors[1] < 0.4 * errors[0]
