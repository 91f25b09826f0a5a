"""A graph run in pieces gives what it gives in one."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from zsq.graph import PartialRun, lift
from zsq.testing import teachers


@pytest.fixture
def module() -> fx.GraphModule:
    return lift(teachers.tiny(), torch.zeros(2, *teachers.SHAPE)).module


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(3, *teachers.SHAPE, generator=torch.Generator().manual_seed(0))


def test_from_every_node_on_the_output_is_the_same(module: fx.GraphModule, inputs: torch.Tensor) -> None:
    partial = PartialRun(module, inputs)
    for node in module.graph.nodes:
        partial.advance(node)
        assert torch.equal(partial.finish(), module(inputs)), f"from {node} on"


def test_finishing_twice_gives_the_same_and_reads_changed_layers(module: fx.GraphModule, inputs: torch.Tensor) -> None:
    last = next(n for n in module.graph.nodes if n.target == "linear")
    partial = PartialRun(module, inputs)
    partial.advance(last)
    before = partial.finish()
    assert torch.equal(partial.finish(), before)
    with torch.no_grad():
        module.get_submodule("linear").weight.mul_(2)
    assert torch.equal(partial.finish(), module(inputs)) and not torch.equal(partial.finish(), before)


def test_known_values_are_taken_instead(module: fx.GraphModule, inputs: torch.Tensor) -> None:
    node = next(n for n in module.graph.nodes if n.target == "block.conv3")
    partial = PartialRun(module, inputs)
    partial.advance(node)
    value = partial.value
    assert torch.equal(partial.finish({node: value}), module(inputs))
    assert not torch.equal(partial.finish({node: value + 1}), module(inputs))


def test_the_prefix_runs_once_and_only_what_is_read_is_kept(module: fx.GraphModule, inputs: torch.Tensor) -> None:
    calls: list[str] = []
    for path in ("conv1", "block.conv2", "linear"):
        module.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.append(path))
    partial = PartialRun(module, inputs)
    partial.advance(next(n for n in module.graph.nodes if n.target == "block.conv2"))
    for _ in range(3):
        partial.finish()
    assert calls == ["conv1"] + 3 * ["block.conv2", "linear"]
    assert all(any(partial.order[user] >= partial.position for user in node.users) for node in partial.values)


def test_it_only_moves_forward(module: fx.GraphModule, inputs: torch.Tensor) -> None:
    partial = PartialRun(module, inputs)
    partial.advance(list(module.graph.nodes)[5])
    with pytest.raises(AssertionError, match="forward"):
        partial.advance(next(iter(module.graph.nodes)))
