"""The frontier against all assignments, one by one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zsq_pareto.costs import Call, Layer, operation_groups, size_groups
from zsq_pareto.frontier import Choices, Frontier, undominated

BITS = (2, 3, 4, 8)

# Losses with few digits, so that ties happen and sums are exact.
losses = st.integers(0, 60).map(lambda n: n / 64)


@st.composite
def networks(draw: st.DrawFn, most: int = 8, bits: tuple[int, ...] = BITS) -> tuple[dict[str, Layer], dict[str, dict[int, float]]]:
    """Layers with weights and sensitivities, in no order of bits."""
    count = draw(st.integers(1, most))
    paths = [f"layer{i}" for i in range(count)]
    sizes = draw(st.lists(st.integers(1, 40), min_size=count, max_size=count))
    harm = {path: {k: draw(losses) for k in bits} for path in paths}
    return {path: Layer(size, ()) for path, size in zip(paths, sizes, strict=True)}, harm


def every(groups: list[Choices]) -> list[tuple[int, float]]:
    """Cost and loss of every assignment."""
    options = [list(zip(g.costs.tolist(), g.losses.tolist(), strict=True)) for g in groups]
    return [(sum(c for c, _ in taken), sum(loss for _, loss in taken)) for taken in product(*options)]


def best(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Those that no other beats, found the slow way."""
    found: list[tuple[int, float]] = []
    for cost, loss in sorted(set(points)):
        if not found or loss < found[-1][1]:
            found.append((cost, loss))
    return found


def points(frontier: Frontier) -> list[tuple[int, float]]:
    return list(zip(frontier.costs.tolist(), frontier.losses.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(networks(most=8, bits=(2, 4, 8)))
def test_frontier_equals_brute_force(network: tuple[dict[str, Layer], dict[str, dict[int, float]]]) -> None:
    groups = size_groups(*network)
    assert points(Frontier(groups)) == best(every(groups))


@settings(max_examples=60, deadline=None)
@given(networks(most=5), st.data())
def test_choice_is_the_best_that_fits(network: tuple[dict[str, Layer], dict[str, dict[int, float]]], data: st.DataObject) -> None:
    groups = size_groups(*network)
    budget = data.draw(st.integers(0, 8 * sum(layer.params for layer in network[0].values())))
    frontier, fitting = Frontier(groups), [loss for cost, loss in every(groups) if cost <= budget]
    index = frontier.within(budget)
    assert (index is None) == (not fitting)
    if index is not None:
        assert frontier.costs[index] <= budget and frontier.losses[index] == min(fitting)


@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from([None, 1, 3, 10]))
def test_frontier_is_monotone_and_its_points_are_assignments(network: tuple[dict, dict], bins: int | None) -> None:
    layers, harm = network
    frontier = Frontier(size_groups(layers, harm), bins=bins)
    assert (np.diff(frontier.costs) > 0).all() and (np.diff(frontier.losses) < 0).all()
    chosen = frontier.choices()
    for i, (cost, loss) in enumerate(points(frontier)):
        own = {path: int(bits[i]) for path, bits in chosen.bits.items()}
        assert own.keys() == layers.keys()
        assert cost == sum(layers[path].params * bits for path, bits in own.items())
        assert loss == sum(harm[path][bits] for path, bits in own.items())


@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from([None, 1, 2, 5]))
def test_never_loses_to_uniform_bits_even_when_thinned(network: tuple[dict, dict], bins: int | None) -> None:
    layers, harm = network
    params = sum(layer.params for layer in layers.values())
    uniform = Choices(
        np.array([k * params for k in BITS]),
        np.array([sum(own[k] for own in harm.values()) for k in BITS]),
        {path: np.array(BITS) for path in layers},
    )
    frontier = Frontier(size_groups(layers, harm), uniform, bins)
    for cost, loss in zip(uniform.costs.tolist(), uniform.losses.tolist(), strict=True):
        index = frontier.within(cost)
        assert index is not None and frontier.losses[index] <= loss
        own = {path: int(bits[0]) for path, bits in frontier.choices([index]).bits.items()}
        assert sum(harm[path][k] for path, k in own.items()) == frontier.losses[index]
        assert sum(layers[path].params * k for path, k in own.items()) == frontier.costs[index]


def test_thinning_keeps_the_cheapest_and_so_many_points() -> None:
    rng = np.random.default_rng(0)
    layers = {f"layer{i}": Layer(int(size), ()) for i, size in enumerate(rng.integers(100, 10_000, 12))}
    harm = {path: dict(zip(BITS, sorted(rng.random(4).tolist(), reverse=True), strict=True)) for path in layers}
    exact, thinned = Frontier(size_groups(layers, harm)), Frontier(size_groups(layers, harm), bins=50)
    assert len(exact.costs) > 100 > 51 >= len(thinned.costs)
    assert thinned.costs[0] == exact.costs[0] and thinned.losses[-1] == exact.losses[-1]
    above = [float(loss / exact.losses[exact.within(int(cost))]) for cost, loss in points(thinned)]
    assert max(above) < 1.5


@st.composite
def operations(draw: st.DrawFn) -> tuple[dict[str, Layer], dict[str, dict[int, float]], list[str]]:
    """Layers that read activations: some the same one, some none, some several in turn."""
    sites = [f"site{i}" for i in range(draw(st.integers(1, 3)))]
    calls = st.builds(Call, st.sampled_from([*sites, ""]), st.integers(1, 30))
    count = draw(st.integers(1, 4))
    layers = {f"layer{i}": Layer(1, tuple(draw(st.lists(calls, min_size=1, max_size=2)))) for i in range(count)}
    harm = {path: {k: draw(losses) for k in (2, 4, 8)} for path in layers}
    return layers, harm | {site: {b: draw(losses) for b in (4, 8)} for site in sites}, sites


@settings(max_examples=80, deadline=None)
@given(operations())
def test_activations_chosen_with_weights_equal_brute_force(network: tuple[dict, dict, list[str]]) -> None:
    layers, harm, sites = network
    frontier = Frontier(operation_groups(layers, harm, dict.fromkeys(sites, 8), (4, 8)))
    found = []
    for widths in product((4, 8), repeat=len(sites)):
        acts = dict(zip(sites, widths, strict=True))
        for taken in product((2, 4, 8), repeat=len(layers)):
            bits = dict(zip(layers, taken, strict=True))
            cost = sum(bits[p] * acts.get(call.site, 32) * call.macs for p, layer in layers.items() for call in layer.calls)
            found.append((cost, sum(harm[p][k] for p, k in {**bits, **acts}.items())))
    assert points(frontier) == best(found)
    assert frontier.choices().bits.keys() == harm.keys()


def test_long_lists_are_expanded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    layers = {f"layer{i}": Layer(int(size), ()) for i, size in enumerate(rng.integers(100, 10_000, 10))}
    harm = {path: {k: float(rng.random()) for k in BITS} for path in layers}
    whole = points(Frontier(size_groups(layers, harm)))
    monkeypatch.setattr("zsq_pareto.frontier._CHUNK", 64)
    assert points(Frontier(size_groups(layers, harm))) == whole


def test_of_equal_points_one_stays() -> None:
    costs, harm = np.array([3, 1, 1, 3, 2]), np.array([0.5, 2.0, 1.0, 0.25, 1.0])
    assert undominated(costs, harm).tolist() == [2, 3]
