"""Cross-layer equalization: the same function, equal ranges, statistics that follow, and the layers that it must leave alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dfq_nets import Inverted, calibrate, distance, in_float, settle, student_of, teacher_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from zsq_dfq import BnRangeOptions, CleOptions
from zsq_dfq.equalization import Equalization, chain_scales
from zsq_dfq.graph import Graph, name_of
from zsq_dfq.layers import input_range, output_range, slope_of
from zsq_dfq.ranges import BnRange

from zsq.errors import ZsqError
from zsq.testing.world import make_batch
from zsq.training import batch_norms
from zsq.types import Student, Teacher


def equalized(module: nn.Module, shape: tuple[int, ...] = (3, 8, 8), **options: Any) -> tuple[Teacher, Student]:
    teacher = teacher_of(module, shape)
    student = student_of(teacher)
    calibrate(Equalization, CleOptions(**options), student, teacher)
    return teacher, student


def chains(teacher: Teacher, student: Student) -> list[list[str]]:
    """Paths of the layers of every chain."""
    from dfq_nets import context

    found = Graph(student, context(teacher)).chains()
    return [[str(link.first.target) for link in chain] + [str(chain[-1].second.target)] for chain in found]


class Stack(nn.Module):
    """Any layers in a row."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


NETS = {
    "relu6, depthwise, residual": lambda: Inverted(F.relu6),
    "relu": lambda: Inverted(F.relu),
    "biases beside BatchNorm": lambda: Inverted(F.relu6, bias=True),
    "leaky": lambda: Inverted(lambda x: F.leaky_relu(x, 0.1)),
    "no BatchNorm": lambda: Stack(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)),
    "no bias, no BatchNorm": lambda: Stack(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()),
    "groups": lambda: Stack(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(),
        nn.Conv2d(12, 24, 1, groups=12), nn.ReLU6(), nn.Conv2d(24, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ),
    "transposed": lambda: Stack(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2, groups=2), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ),
    "BatchNorm after ReLU, and one without numbers": lambda: Stack(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(),
        nn.AvgPool2d(2), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ),
    "linear layers": lambda: Stack(
        nn.Flatten(), nn.Linear(192, 12), nn.BatchNorm1d(12), nn.ReLU6(), nn.Linear(12, 8, bias=False), nn.ReLU(), nn.Linear(8, 4),
    ),
    "max-pooling and padding": lambda: Stack(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 4, 3), nn.Flatten(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["paper", "deploy"])
@pytest.mark.parametrize("name", NETS)
def test_the_function_stays(name: str, scheme: str) -> None:
    teacher = teacher_of(settle(NETS[name]()))
    student = student_of(teacher, scheme=scheme)
    inputs = 2 * make_batch(teacher, 32).inputs
    calibrate(Equalization, CleOptions(), student, teacher)
    assert chains(teacher, student), "nothing was equalized"
    assert distance(in_float(student, inputs), teacher.module(inputs)) < 1e-5


def test_the_function_stays_after_every_beat() -> None:
    from dfq_nets import context

    teacher = teacher_of(settle(Inverted()))
    student = student_of(teacher)
    inputs = make_batch(teacher, 16).inputs
    beats = 0
    for _ in Equalization(CleOptions(), context(teacher)).fit(student, None):  # type: ignore[arg-type]
        beats += 1
        assert distance(in_float(student, inputs), teacher.module(inputs)) < 1e-5
    assert 2 < beats < 51


@given(st.integers(2, 4), st.integers(1, 5), st.randoms(use_true_random=False))
def test_all_ranges_of_a_chain_become_their_geometric_mean(layers: int, channels: int, random: Any) -> None:
    ranges = [torch.tensor([10 ** random.uniform(-2, 2) for _ in range(channels)]) for _ in range(layers)]
    scales = [torch.ones(channels), *chain_scales(ranges), torch.ones(channels)]
    after = torch.stack([r * before / behind for r, before, behind in zip(ranges, scales[:-1], scales[1:], strict=True)])
    mean = torch.stack(ranges).log().mean(0).exp()
    assert torch.allclose(after, mean.expand_as(after).to(after), rtol=1e-5)


def test_two_layers_get_the_papers_scale() -> None:
    (scale,) = chain_scales([torch.tensor([8.0, 1.0, 0.0, 2.0]), torch.tensor([2.0, 4.0, 1.0, 0.0])])
    assert scale.tolist() == pytest.approx([2.0, 0.5, 1.0, 1.0])


def test_a_triplets_maxima_are_equal() -> None:
    teacher, student = equalized(settle(Inverted(F.relu)), tolerance=1e-6)
    assert chains(teacher, student) == [["expand", "depthwise", "project"], ["head", "linear"]]
    net: Any = student.module
    maxima = [output_range(net.expand), output_range(net.depthwise), input_range(net.project)]
    assert torch.allclose(maxima[0], maxima[1], rtol=1e-4) and torch.allclose(maxima[1], maxima[2], rtol=1e-4)
    assert torch.allclose(output_range(net.head), input_range(net.linear), rtol=1e-4)


def test_sweeps_go_on_until_pairs_that_share_a_layer_agree() -> None:
    net = Stack(*[layer for width in (3, 8, 8, 8) for layer in (nn.Conv2d(width, 8, 1), nn.ReLU())], nn.Conv2d(8, 4, 1), nn.Flatten())
    _, student = equalized(settle(net), tolerance=1e-4)
    layers: Any = student.module.layers
    paths = [0, 2, 4, 6, 8]
    for first, second in pairwise(paths):
        assert torch.allclose(output_range(getattr(layers, str(first))), input_range(getattr(layers, str(second))), rtol=1e-2)


def test_no_equalization_across_a_sum_or_two_readers() -> None:
    teacher, student = equalized(settle(Inverted()))
    joined = {pair for chain in chains(teacher, student) for pair in pairwise(chain)}
    assert not joined & {("stem", "expand"), ("project", "head")}


def test_statistics_follow() -> None:
    """Mean and standard deviation of BatchNorm's output are its bias and sqrt(running_var), which scale with the channel."""
    teacher = teacher_of(settle(Inverted(F.relu)))
    student = student_of(teacher)
    inputs = make_batch(teacher, 256).inputs
    calibrate(Equalization, CleOptions(), student, teacher)
    seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    norms = batch_norms(student.module)
    over = (0, 2, 3)

    def watch(path: str) -> Any:
        return lambda _norm, x, out: seen.__setitem__(path, (x[0].mean(over), out.mean(over), out.var(over)))

    hooks = [norm.register_forward_hook(watch(path)) for path, norm in norms.items()]
    in_float(student, inputs)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 5
    for path, (before, mean, var) in seen.items():
        norm: Any = norms[path]
        std = norm.running_var.sqrt()
        assert torch.allclose(slope_of(norm), torch.ones(len(std)).double(), rtol=1e-6)
        assert (((before - norm.running_mean) / std).abs() < 0.25).all() and (((mean - norm.bias) / std).abs() < 0.25).all()
        assert ((var / norm.running_var).log().abs() < 0.6).all()
        own: Any = teacher.module.get_submodule(path)
        assert not torch.allclose(norm.bias, own.bias, rtol=0.1) or path in ("bn0", "bn3")


def test_negative_gammas_end_in_the_weights() -> None:
    _, student = equalized(settle(Inverted()), sweeps=0)
    norms = batch_norms(student.module)
    assert all((norm.weight > 0).all() for norm in norms.values())


def test_a_dead_channel_is_left_alone() -> None:
    net = settle(Inverted())
    with torch.no_grad():
        net.expand.weight[2] = 1e-20
        net.bn1.running_var[2] = 0
        net.bn1.running_mean[2] = 0
        net.bn1.bias[2] = 3.0
    teacher, student = equalized(net)
    inputs = make_batch(teacher, 16).inputs
    assert distance(in_float(student, inputs), teacher.module(inputs)) < 1e-5
    assert float(student.module.bn1.bias[2].detach()) == 3.0


def test_bounds_are_kept_per_channel_only_where_they_moved() -> None:
    _, student = equalized(settle(Inverted()))
    caps = {name: buffer for name, buffer in student.module.named_buffers() if name.endswith("_cap")}
    assert set(caps) == {"expand_cap", "depthwise_cap", "head_cap"}, "the stem's ReLU6 feeds two layers and keeps its 6"
    assert all((cap != 6).any() for cap in caps.values())
    assert sum(name_of(n) in ("hardtanh", "relu6") for n in student.module.graph.nodes) == 1


def test_relu6_can_become_relu_as_in_the_paper() -> None:
    net = settle(Inverted())
    teacher, student = equalized(net, relu6="relu")
    inputs = 3 * make_batch(teacher, 16).inputs
    net.act = F.relu
    assert distance(in_float(student, inputs), net(inputs)) < 1e-5
    assert not [n for n in student.module.graph.nodes if "hardtanh" in str(n.target) or "minimum" in str(n.target)]


def test_equalizing_again_changes_nothing_much_and_keeps_the_function() -> None:
    teacher, student = equalized(settle(Inverted()), sweeps=2)
    inputs = make_batch(teacher, 16).inputs
    calibrate(Equalization, CleOptions(), student, teacher)
    assert distance(in_float(student, inputs), teacher.module(inputs)) < 1e-5
    assert len([name for name, _ in student.module.named_buffers() if "_cap" in name]) == 3


def test_ranges_that_stand_are_refused() -> None:
    teacher = teacher_of(settle(Inverted()))
    student = student_of(teacher)
    calibrate(BnRange, BnRangeOptions(), student, teacher)
    before = student.module.expand.weight.clone()
    with pytest.raises(ZsqError, match="already has a range") as caught:
        calibrate(Equalization, CleOptions(), student, teacher)
    assert "put cle before" in caught.value.hint and torch.equal(student.module.expand.weight, before)


def test_one_scale_per_tensor_gains() -> None:
    """Where channels differ by e^2, equalization makes 8-bit weights per tensor much better."""
    teacher = teacher_of(settle(Inverted(), spread=2.0))
    inputs = make_batch(teacher, 64).inputs
    errors = []
    for sweeps in (0, 50):
        student = student_of(teacher, act_bits=None)
        calibrate(Equalization, CleOptions(sweeps=sweeps), student, teacher)
        with torch.no_grad():
            errors.append(distance(student.module(inputs), teacher.module(inputs)))
    assert errors[1] < 0.5 * errors[0]
