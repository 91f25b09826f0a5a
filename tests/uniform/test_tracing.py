"""A recorded program is the one that torch.export sees; what one run does not show is not recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zsq_zoo.litedet import LiteDet
from zsq_zoo.litelab import LiteLab
from zsq_zoo.resnet import resnet20

from zsq.graph import _tracing as tracing
from zsq.graph import lift
from zsq.graph._recording import record


class Net(nn.Module):
    """A convolution, then ``after(net, features)``."""

    def __init__(self, after: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.bn, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Linear(4, 4)
        self.drop, self.after, self.plain, self.kept = nn.Dropout(inplace=True), after, torch.ones(4, 1, 1), {}
        self.register_buffer("shift", torch.zeros(4, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.after(self, self.bn(self.conv(x)))


def branch(net: Net, y: Tensor) -> Tensor:
    return y if y.sum() > 0 else -y


def without_gradient(net: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        return y * 2


def in_bf16(net: Net, y: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net.fc(y.mean((2, 3)))


def through_a_view(net: Net, y: Tensor) -> Tensor:
    y[:, 1:].relu_()
    return y + 1


def count(net: Net, y: Tensor) -> Tensor:
    net.shift += 1
    return y + net.shift


def set_data(net: Net, y: Tensor) -> Tensor:
    z = y * 2
    z.data = y
    return z + 1


def keep(net: Net, y: Tensor) -> Tensor:
    net.kept.setdefault("grid", torch.arange(y.shape[-1], dtype=y.dtype))
    return y + net.kept["grid"]


def lifted(network: nn.Module, example: Tensor) -> tuple[Any, ...]:
    """Everything that a lifted graph says of itself."""
    module = lift(network, example).module
    nodes = [(n.format_node(), n.meta.get("site")) for n in module.graph.nodes]
    return nodes, [(path, type(m).__name__) for path, m in module.named_modules()], list(module.state_dict())


def same(network: nn.Module, example: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is the same by either way."""
    assert record(network, example) is not None
    recorded = lifted(network, example)
    monkeypatch.setattr(tracing, "record", lambda network, example: None)
    assert recorded == lifted(network, example)


RECORDED = {
    "in place": lambda net, y: net.relu(y) + 1,
    "in place, read again": lambda net, y: net.relu(y) + y,
    "one module twice": lambda net, y: net.relu(net.relu(y) - 1),
    "sizes of images": lambda net, y: F.interpolate(y, size=(y.shape[2] * 2, y.shape[3])),
    "flatten": lambda net, y: net.fc(F.adaptive_avg_pool2d(y, 1).flatten(1)),
    "slices": lambda net, y: y[:, :2, ::2] + y[:, 2:, ::2],
    "parts": lambda net, y: torch.cat(y.chunk(2, 1)[::-1], 1),
    "everything": lambda net, y: y[:] + y[:, :4],
    "buffer": lambda net, y: y + net.shift,
    "structure": lambda net, y: {"a": y, "b": [net.relu(y + 1), (y * 2,)]},
    "dropout": lambda net, y: net.fc(net.drop(y.mean((2, 3)) * 2)),
}
NOT_RECORDED = {
    "branch": branch,
    "batch size": lambda net, y: y.view(y.size(0), -1),
    "batch size as a factor": lambda net, y: y * y.shape[0],
    "number": lambda net, y: y * float(y.max()),
    "list": lambda net, y: y * y[0, 0, 0].tolist()[0],
    "numpy": lambda net, y: y * float(y.numpy().max()),
    "array": lambda net, y: y * float(np.asarray(y).max()),
    "dlpack": lambda net, y: y * float(np.from_dlpack(y).max()),
    "comparison": lambda net, y: y if torch.equal(y, y) else -y,
    "no gradient": without_gradient,
    "autocast": in_bf16,
    "tensor of the module that is no buffer": lambda net, y: y + net.plain,
    "constant": lambda net, y: y + torch.tensor(3.0),
    "made in the forward": lambda net, y: y + torch.arange(y.shape[-1], dtype=y.dtype),
    "detached": lambda net, y: y.detach() + 1,
    "detached in place": lambda net, y: (y * 2).detach_() + 1,
    "data set": set_data,
    "data": lambda net, y: y.data + 1,
    "through a view": through_a_view,
    "buffer that counts": count,
    "dropout that trains": lambda net, y: F.dropout(y, training=True),
    "random": lambda net, y: y + torch.rand_like(y),
    "not a tensor": lambda net, y: (y, 3),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_program_is_the_exported_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    same(Net(RECORDED[name]).eval(), torch.randn(2, 3, 8, 8), monkeypatch)


@pytest.mark.parametrize(("make", "shape"), [(resnet20, (3, 32, 32)), (LiteDet, (3, 96, 128)), (LiteLab, (3, 96, 128))])
def test_whole_networks_are_recorded_as_they_are_exported(
    make: Callable[[], nn.Module], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    same(make().eval(), torch.randn(2, *shape), monkeypatch)


@pytest.mark.parametrize("name", NOT_RECORDED)
def test_what_one_run_does_not_show_is_left_to_export(name: str) -> None:
    assert record(Net(NOT_RECORDED[name]).eval(), torch.randn(2, 3, 8, 8)) is None


def test_shared_weights_and_modules_at_two_paths_are_left_to_export() -> None:
    tied, twice = Net(lambda net, y: net.fc(y.mean((2, 3)))), Net(lambda net, y: net.again(net.relu(y)))
    tied.head = nn.Linear(4, 4)
    tied.head.weight = tied.fc.weight
    twice.again = twice.relu
    assert record(tied.eval(), torch.randn(2, 3, 8, 8)) is record(twice.eval(), torch.randn(2, 3, 8, 8)) is None


def test_what_is_not_recorded_is_traced_all_the_same() -> None:
    network = Net(NOT_RECORDED["batch size"]).eval()
    assert any("sym_size" in str(node.target) for node in lift(network, torch.randn(2, 3, 8, 8)).module.graph.nodes)


@pytest.mark.parametrize("after", [keep, count, without_gradient, NOT_RECORDED["random"]])
def test_recording_leaves_the_network_alone(after: Callable[[Any, Tensor], Any]) -> None:
    network = Net(after).eval()
    before, example, noise = copy.deepcopy(network.state_dict()), torch.randn(2, 3, 8, 8), torch.get_rng_state()
    record(network, example)
    assert torch.equal(noise, torch.get_rng_state())
    assert not network.kept and not network._forward_hooks and not network.conv._forward_pre_hooks
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
