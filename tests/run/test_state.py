"""State as bytes: everything comes back as it was, tensors with their bits, types and strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsq._run.checkpoints import dump, parse

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        | st.dictionaries(st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(VALUES)
def test_plain_values_come_back(value: Any) -> None:
    found = parse(dump(value))
    assert found == value and repr(found) == repr(value)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), max_size=4), st.data())
def test_tensors_come_back_with_their_strides(shape: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]))
    tensor = torch.randint(0, 2, [shape[i] for i in order]).to(dtype)
    tensor = tensor.permute([order.index(i) for i in range(len(shape))])
    (found,) = parse(dump([tensor]))
    assert found.dtype == dtype and torch.equal(found, tensor)
    if tensor.numel():
        assert found.stride() == tensor.stride()


def test_an_optimizer_goes_on_with_the_same_bits() -> None:
    """Its state lies as the parameters do: fused steps read both in the order of memory."""

    def steps(weight: torch.nn.Parameter, adam: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            (weight.sin() * torch.arange(weight.numel()).view_as(weight)).sum().backward()
            adam.step()
            adam.zero_grad()

    def make() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(torch.ones(3, 4, 5, 2).contiguous(memory_format=torch.channels_last))
        return weight, torch.optim.Adam([weight], 0.1, fused=True)

    weight, adam = make()
    steps(weight, adam, 3)
    kept = parse(dump([weight, adam.state_dict()]))
    again, other = make()
    with torch.no_grad():
        again.copy_(kept[0])
    other.load_state_dict(kept[1])
    steps(weight, adam, 3)
    steps(again, other, 3)
    assert torch.equal(weight, again)


def test_views_of_one_memory_and_expanded_tensors_are_kept_apart() -> None:
    base = torch.arange(6.0)
    first, second, wide, same = parse(dump([base[:3], base[3:], base[:1].expand(4), base]))
    assert first.tolist() == [0, 1, 2] and second.tolist() == [3, 4, 5] and wide.tolist() == [0] * 4 and same.tolist() == base.tolist()


def test_what_cannot_be_kept_is_named_with_its_place() -> None:
    with pytest.raises(TypeError, match=r"a set at 'a\.1\.b'"):
        dump({"a": [1, {"b": {1, 2}}]})
