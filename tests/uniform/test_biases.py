"""Biases of a student for deployment: whole multiples of s_act * s_weight once it is frozen, whatever chain ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing import world
from zsq.types import Student


class Net(nn.Module):
    """A bias with and without BatchNorm behind it, a gamma below zero and one of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 8, 3, bias=True), nn.Linear(8, 4)
        with torch.no_grad():
            self.norm.weight.copy_(torch.linspace(-1, 1.3, 8))
            self.norm.weight[2] = 0
            self.norm.bias.copy_(torch.linspace(0.3, -0.2, 8))
            self.norm.running_mean.fill_(0.05)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.head(nn.functional.relu6(self.second(x)).mean((2, 3)))  # type: ignore[no-any-return]


def made(**options: Any) -> Student:
    torch.manual_seed(0)
    teacher = world.make_teacher(Net().eval(), shape=(3, 8, 8))
    student = Uniform(UniformOptions(**options), world.make_context(Path(), teacher=teacher)).quantize(teacher, None)
    with student.observing(), torch.no_grad():
        student.module(inputs())
    return student


def inputs() -> Tensor:
    return torch.randn((16, 3, 8, 8), generator=torch.Generator().manual_seed(1))


def off(student: Student) -> list[float]:
    """How far every layer's bias is from a multiple of its step, in steps at most."""
    m: Any = student.module
    points = list(student.acts.values())
    scales = [point.scale.double() for point in points]
    sigma = (m.norm.running_var.double() + m.norm.eps).sqrt()
    factor = m.norm.weight.double() / sigma
    first = (m.first.bias.double() - m.norm.running_mean.double()) * factor + m.norm.bias.double()
    steps = [
        scales[0] * m.first.weight_point.scale.double() * torch.where(factor == 0, 1.0, factor.abs()),
        scales[1] * m.second.weight_point.scale.double(),
        scales[-1] * m.head.weight_point.scale.double(),
    ]
    found = [bias / step for bias, step in zip((first, m.second.bias.double(), m.head.bias.double()), steps, strict=True)]
    return [float((f - f.round()).abs().max()) for f in found]


def test_frozen_biases_are_whole_multiples() -> None:
    student = made(weight_bits=8, act_bits=8, scheme="deploy")
    with torch.no_grad():
        before = student.module(inputs())
        assert min(off(student)) > 0.1
        student.freeze()
        assert max(off(student)) < 0.01
        assert torch.allclose(student.module(inputs()), before, atol=0.02 * float(before.abs().max()))


def test_freezing_twice_changes_nothing_more() -> None:
    student = made(weight_bits=8, act_bits=8, scheme="deploy")
    student.freeze()
    state = {name: tensor.clone() for name, tensor in student.module.state_dict().items() if name.endswith("bias")}
    student.freeze()
    assert len(state) == 4 and all(torch.equal(tensor, student.module.state_dict()[name]) for name, tensor in state.items())


@pytest.mark.parametrize("options", [{"scheme": "paper"}, {"scheme": "deploy", "act_bits": None}])
def test_other_students_keep_every_bit(options: dict[str, Any]) -> None:
    student = made(**{"weight_bits": 8, "act_bits": 8, **options})
    names = ("norm.bias", "first.bias", "second.bias", "head.bias")
    state = {name: student.module.state_dict()[name].clone() for name in names}
    student.freeze()
    assert all(torch.equal(student.module.state_dict()[name], state[name]) for name in names)


def test_outputs_of_few_bits_leave_room_and_their_biases_alone() -> None:
    student = made(weight_bits=4, act_bits=4, scheme="deploy")
    state = {name: tensor.clone() for name, tensor in student.module.state_dict().items()}
    student.freeze()
    after = student.module.state_dict()
    assert torch.equal(after["norm.bias"], state["norm.bias"]) and torch.equal(after["second.bias"], state["second.bias"])
    assert not torch.equal(after["head.bias"], state["head.bias"]), "the output is in float: its bias is rounded"
