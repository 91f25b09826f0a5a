"""How errors of layers add up: the Gram matrix against plain computation, and climbing against all moves, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zsq_pareto import ParetoOptions
from zsq_pareto.costs import Call, Costs, Layer, operation_costs, operation_groups, operations, size, size_costs, size_groups
from zsq_pareto.frontier import Frontier
from zsq_pareto.joint import Joint
from zsq_pareto.quantizer import Pareto
from zsq_pareto.sensitivity import Sensitivities

from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing.world import make_batch, make_context, make_teacher
from zsq.types import Student, Teacher

BITS = (2, 4, 8)
Bits = dict[str, int]


def uniform(teacher: Teacher, **options: Any) -> Student:
    return Uniform(UniformOptions(**options), make_context(Path())).quantize(teacher, None)


def pareto(teacher: Teacher, cache: Path | None = None, images: int = 12, **options: Any) -> dict[str, Any]:
    ctx = make_context(Path(), teacher=teacher).with_(workdir=None, cache=cache)
    return dict(Pareto(ParetoOptions(**options), ctx).quantize(teacher, make_batch(teacher, images)).details)


# The matrix


@torch.no_grad()
def answers(teacher: Teacher, inputs: Tensor, bits: Bits) -> Tensor:
    """Logits of the teacher with the weights of some layers on their grids."""
    student = uniform(teacher, act_bits=None)
    for path, point in student.weights.items():
        layer = path.removesuffix(".weight_point")
        if layer in bits:
            point.bits = bits[layer]
        else:
            setattr(student.module.get_submodule(layer), "weight_point", nn.Identity())  # noqa: B010
    return student.module(inputs).double()  # type: ignore[no-any-return]


def plain_gram(teacher: Teacher, inputs: Tensor, items: list[tuple[str, int]]) -> Tensor:
    """Half the mean over images of d' (diag(p) - p p') e, for all pairs of changes of the logits d and e."""
    truth = teacher.module(inputs).double()
    p = truth.softmax(1)
    changes = [answers(teacher, inputs, {path: bits}) - truth for path, bits in items]
    fisher = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.stack([torch.stack([(d[:, None] @ fisher @ e[:, :, None]).mean() / 2 for e in changes]) for d in changes])


@pytest.mark.parametrize("part", [3, 128])
def test_gram_is_that_of_plain_computation(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsq_pareto.sensitivity._IMAGES", part)
    teacher, inputs = make_teacher(), make_batch(make_teacher(), 10).inputs
    work = Sensitivities(uniform(teacher), teacher.task, inputs)
    list(work.measure((2, 6)))
    assert work.items == [(path, bits) for path in work.layers for bits in (2, 6)]
    truth = plain_gram(teacher, inputs, work.items)
    scale = truth.diagonal().sqrt()
    torch.testing.assert_close(work.gram / scale / scale[:, None], truth / scale / scale[:, None], rtol=0, atol=2e-3)
    assert torch.equal(work.gram, work.gram.T)


def test_items_of_the_gram_are_weights_then_sites() -> None:
    teacher = make_teacher()
    work = Sensitivities(uniform(teacher), teacher.task, make_batch(teacher, 6).inputs)
    list(work.measure((8,), (8,)))
    assert work.items == [*((path, 8) for path in work.layers), *((path, 8) for path in work.sites)]
    omega = torch.cat([work.weights[8], work.acts[8]])
    torch.testing.assert_close(work.gram.diagonal(), omega, rtol=0.1, atol=1e-9)  # the second order of each, of its own


def test_joint_prediction_is_close_to_the_divergence_of_small_changes_where_the_sum_is_not() -> None:
    teacher, inputs = make_teacher(), make_batch(make_teacher(), 64).inputs
    work = Sensitivities(uniform(teacher), teacher.task, inputs)
    list(work.measure((8,)))
    p, q = (z.log_softmax(1) for z in (teacher.module(inputs).double(), answers(teacher, inputs, dict.fromkeys(work.layers, 8))))
    truth = float((p.exp() * (p - q)).sum(1).mean())
    assert float(work.gram.sum()) == pytest.approx(truth, rel=0.05)
    assert abs(float(work.weights[8].sum()) - truth) > 0.1 * truth


class Pixels(nn.Module):
    """An answer at every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())  # type: ignore[no-any-return]


def dense(inputs: Tensor) -> Sensitivities:
    torch.manual_seed(0)
    teacher = make_teacher(Pixels().eval().requires_grad_(False))
    work = Sensitivities(uniform(teacher), teacher.task, inputs)
    list(work.measure((8,)))
    return work


def test_dense_answers_count_the_mean_over_places(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_batch(make_teacher(), 6).inputs
    whole = dense(inputs)
    torch.testing.assert_close(whole.gram.diagonal(), whole.weights[8], rtol=0.05, atol=0)
    monkeypatch.setattr("zsq_pareto.sensitivity._NUMBERS", 4 * 16)  # 16 of 64 places
    some = dense(inputs)
    assert torch.equal(some.weights[8], whole.weights[8]) and not torch.equal(some.gram, whole.gram)
    torch.testing.assert_close(some.gram.diagonal(), whole.gram.diagonal(), rtol=0.3, atol=0)
    assert torch.equal(dense(inputs).gram, some.gram)
    monkeypatch.setattr("zsq_pareto.sensitivity._MOVES", 0)  # never less than one place
    assert dense(inputs).gram.diagonal().min() > 0


# Climbing

small = st.integers(0, 20)


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, Layer], Bits, list[tuple[str, int]], np.ndarray, bool]:
    """Layers, some with a site to choose the bits of, bits of sites that are not, items, a PSD matrix of integers, and whether
    operations count."""
    bops, choose = draw(st.booleans()), draw(st.booleans())
    sites = [f"site{i}" for i in range(draw(st.integers(1, 2)))] if bops else []
    calls = st.lists(st.builds(Call, st.sampled_from([*sites, ""]), st.integers(1, 20)), min_size=1, max_size=2)
    layers = {f"layer{i}": Layer(draw(st.integers(1, 20)), tuple(draw(calls))) for i in range(draw(st.integers(1, 5)))}
    items = [(path, k) for path in layers for k in BITS] + [(site, b) for site in sites if choose for b in (4, 8)]
    moves = np.array(draw(st.lists(st.lists(st.integers(-9, 9), min_size=3, max_size=3), min_size=len(items), max_size=len(items))))
    return layers, dict.fromkeys(sites, 8), items, (moves @ moves.T).astype(float), bops


def costs(layers: dict[str, Layer], act_bits: Bits, items: list[tuple[str, int]], bops: bool) -> Costs:
    return operation_costs(layers, items, act_bits) if bops else size_costs(layers, items)


def everything(items: list[tuple[str, int]]) -> Iterator[Bits]:
    names = list(dict.fromkeys(name for name, _ in items))
    for taken in product(*([k for n, k in items if n == name] for name in names)):
        yield dict(zip(names, taken, strict=True))


def harm(gram: np.ndarray, items: list[tuple[str, int]], bits: Bits) -> float:
    rows = [items.index(item) for item in bits.items()]
    return float(sum(gram[i, j] for i in rows for j in rows))


def moves(items: list[tuple[str, int]], bits: Bits) -> Iterator[Bits]:
    """Every change of one or two names."""
    for one in items:
        yield {**bits, one[0]: one[1]}
    for (a, k), (b, m) in combinations(items, 2):
        if a != b:
            yield {**bits, a: k, b: m}


@settings(max_examples=80, deadline=None)
@given(problems(), st.data())
def test_climbing_fits_and_no_change_of_one_or_two_betters_its_end(problem: tuple[Any, ...], data: st.DataObject) -> None:
    layers, act_bits, items, gram, bops = problem
    price = lambda bits: (operations if bops else size)(layers, {**act_bits, **bits})  # noqa: E731
    start = data.draw(st.sampled_from(list(everything(items))))
    budget = price(start) + data.draw(small)
    joint = Joint(items, gram, costs(layers, act_bits, items, bops), budget)
    end, found = joint.climb(start)
    assert price(end) <= budget
    assert found == harm(gram, items, end) <= harm(gram, items, start)
    assert found == min([harm(gram, items, other) for other in moves(items, end) if price(other) <= budget])
    assert joint.climb(start) == (end, found) == Joint(items, gram, joint.costs, budget).climb(start)


@settings(max_examples=80, deadline=None)
@given(problems(), st.data())
def test_costs_of_items_are_those_of_assignments(problem: tuple[Any, ...], data: st.DataObject) -> None:
    layers, act_bits, items, _, bops = problem
    bits = data.draw(st.sampled_from(list(everything(items))))
    rows = np.array([items.index(item) for item in bits.items()])
    assert costs(layers, act_bits, items, bops).of(rows) == (operations if bops else size)(layers, {**act_bits, **bits})


@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_never_above_what_fits_of_uniform_bits_or_of_the_frontier(problem: tuple[Any, ...], data: st.DataObject) -> None:
    layers, act_bits, items, gram, bops = problem
    names, widths = {name for name, _ in items}, tuple(sorted({b for name, b in items if name not in layers}))
    own = {name: {k: float(gram[i, i]) for i, (n, k) in enumerate(items) if n == name} for name in names}
    frontier = Frontier(operation_groups(layers, own, act_bits, widths) if bops else size_groups(layers, own))
    points = [bits for i in range(len(frontier.costs)) if (bits := frontier.choices([i]).named(0))]
    budget = int(frontier.costs[data.draw(st.integers(0, len(points) - 1))]) + data.draw(small)
    same = [{name: b if name not in layers else k for name in names} for k in BITS for b in widths or (0,)]
    joint = Joint(items, gram, costs(layers, act_bits, items, bops), budget)
    price = lambda bits: (operations if bops else size)(layers, {**act_bits, **bits})  # noqa: E731
    starts = [bits for bits in [*points, *same] if price(bits) <= budget]
    chosen = joint.best(starts)
    assert price(chosen) <= budget
    for bits in starts:
        assert joint.predicted(chosen) <= joint.predicted(bits) == harm(gram, items, bits)


def test_two_layers_that_cancel_are_both_taken_low() -> None:
    """Layers a and b at 2 bits move the output in opposite ways, by more than c does: sums take c low, the truth is a and b."""
    layers = {path: Layer(10, ()) for path in "abc"}
    items = [(path, k) for path in "abc" for k in (2, 8)]
    moves = np.array([[2.0, 0], [0, 0], [-2.0, 0], [0, 0], [0, 1.0], [0, 0]])
    own = {path: {k: float((moves[i] ** 2).sum()) for i, (p, k) in enumerate(items) if p == path} for path in "abc"}
    frontier = Frontier(size_groups(layers, own))
    budget = 140  # 2 + 4 + 8 bits: two layers at 2 bits, or one and none at all
    paper = frontier.choices([frontier.within(budget)]).named(0)
    joint = Joint(items, moves @ moves.T, size_costs(layers, items), budget)
    assert sum(paper[path] == 2 for path in "ab") == 1 and paper["c"] == 2
    assert joint.best([paper]) == {"a": 2, "b": 2, "c": 8}  # a change of two at once
    assert joint.predicted({"a": 2, "b": 2, "c": 8}) == 0 < joint.predicted(paper) == 5


def test_a_name_alone_takes_one_item() -> None:
    moves = np.array([[9.0], [1.0], [3.0], [-2.0]])  # 3 - 2 would leave nothing of 1, but one name takes one item
    items = [("a", k) for k in (2, 3, 4, 5)]
    joint = Joint(items, moves @ moves.T, Costs(np.array([2, 3, 3, 3])), 3)
    assert joint.climb({"a": 2}) == joint.climb({"a": 3}) == ({"a": 3}, 1.0)


def test_of_equal_harm_the_cheaper_is_taken_then_the_first() -> None:
    layers = {"a": Layer(1, ()), "b": Layer(1, ())}
    items = [(path, k) for path in "ab" for k in (2, 8)]
    joint = Joint(items, np.zeros((4, 4)), size_costs(layers, items), 20)
    starts = [{"a": 8, "b": 8}, {"a": 8, "b": 2}, {"a": 2, "b": 8}]
    assert joint.best(starts) == starts[1]


# The quantizer


class Twins(nn.Module):
    """Two layers of the same weights whose answers are taken from each other, and a third beside them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b, self.c, self.linear = (nn.Linear(12, 12, bias=False) for _ in range(4))
        self.b.weight.data.copy_(self.a.weight)
        self.linear.weight.data *= 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)[:, :12]
        return (self.linear(x) + 2 * (self.a(x) - self.b(x)) + self.c(x))[:, :4]  # type: ignore[no-any-return]


def test_quantizer_counts_errors_that_cancel() -> None:
    teacher = make_teacher(Twins().eval().requires_grad_(False))
    details = pareto(teacher, mean_bits=5, candidates=(2, 8), images=64)
    paper = pareto(teacher, mean_bits=5, candidates=(2, 8), images=64, interactions=False)
    assert details["assignment"] == {"linear": 8, "a": 2, "b": 2, "c": 8}
    assert paper["assignment"] == {"linear": 2, "a": 8, "b": 8, "c": 2} == details["additive"]["assignment"]
    assert 20 * details["joint_kl"] < details["additive"]["joint_kl"]
    assert details["predicted_kl"] > paper["predicted_kl"]  # as a sum it is worse


@pytest.mark.parametrize("options", [{}, {"act_candidates": (4, 8), "bops": 1.5e6}])
def test_choice_is_the_same_each_time_and_from_the_cache(options: dict[str, Any], tmp_path: Path) -> None:
    first = pareto(make_teacher(), tmp_path, **options)
    assert first == pareto(make_teacher(), **options) == pareto(make_teacher(), tmp_path, **options)


def test_another_budget_of_operations_runs_no_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"candidates": (2, 8), "act_candidates": (4, 8)}
    pareto(make_teacher(), tmp_path, bops=2e6, **given)
    monkeypatch.setattr("zsq_pareto.sensitivity.PartialRun", None)
    monkeypatch.setattr("zsq_pareto.costs.PartialRun", None)
    assert pareto(make_teacher(), tmp_path, bops=1.4e6, **given)["bops"] <= 1.4e6


def test_what_is_measured_without_interactions_serves_them_not(tmp_path: Path) -> None:
    pareto(make_teacher(), tmp_path, interactions=False)
    assert pareto(make_teacher(), tmp_path) == pareto(make_teacher())


@pytest.mark.parametrize("change", [{"candidates": (3, 6)}, {"act_candidates": (5, 7)}, {"act_percent": 90.0}])
def test_the_matrix_of_other_items_is_not_taken_from_the_cache(change: dict[str, Any], tmp_path: Path) -> None:
    given = {"candidates": (2, 8), "act_candidates": (4, 8), "bops": 2e6}
    first = pareto(make_teacher(), tmp_path, **given)
    cached = pareto(make_teacher(), tmp_path, **{**given, **change})
    assert cached == pareto(make_teacher(), **{**given, **change})
    assert cached["joint_kl"] != first["joint_kl"]
