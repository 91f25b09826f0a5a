"""Gradient inundation: all layers at once against one layer after the other, the limits, and that a longer step changes nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zsq_ait import AitOptions
from zsq_ait.codes import Codes
from zsq_ait.inundation import Inundation

from zsq.grids import WeightPoint

SHAPES = [(1,), (1, 1), (5, 1), (1, 7), (4, 3), (6, 2, 3, 3), (3, 1, 3, 3), (8, 18), (2, 6, 3)]


def layer(weight: Tensor, bits: int = 4, symmetric: bool = False, axis: int | None = 0) -> tuple[nn.Parameter, WeightPoint]:
    parameter = nn.Parameter(weight.clone())
    return parameter, WeightPoint(parameter, bits, symmetric, axis)


def codes_of(like: tuple[nn.Parameter, WeightPoint], weight: Tensor) -> Tensor:
    """The codes of ``weight`` in the student's layer."""
    _, point = like
    parameter = nn.Parameter(weight.clone())
    other = WeightPoint(parameter, point.bits, point.symmetric, point.axis)
    if not point.live:
        other.set_range(*point.range)
    return other.codes


class Plain:
    """A plain loop of the method: one tensor, one probe after the other; with the bound on kappa."""

    def __init__(self, like: tuple[nn.Parameter, WeightPoint], o: AitOptions) -> None:
        self.like, self.o, self.weight, self.buffer = like, o, like[0].detach().clone(), torch.zeros_like(like[0])

    def share(self, kappa: float, lr: float, d: Tensor) -> float:
        moved = self.weight - d * (kappa * lr)
        return int((codes_of(self.like, moved) != codes_of(self.like, self.weight)).sum()) / self.weight.numel()

    def step(self, g: Tensor, lr: float, rho: float) -> float:
        self.buffer = self.buffer * self.o.momentum + g
        d = self.buffer * self.o.momentum + g
        kappa = self.search(lr, rho, d)
        self.weight = self.weight - d * (kappa * lr)
        return kappa

    def search(self, lr: float, rho: float, d: Tensor) -> float:
        o, kappa = self.o, 1.0
        if self.share(kappa, lr, d) >= rho:
            return kappa
        while self.share(kappa, lr, d) < rho:
            if kappa >= 2**o.doublings:
                return kappa if self.share(kappa, lr, d) > 0 else 1.0
            kappa *= 2
        lower, last = kappa / 2, kappa
        for _ in range(o.rounds):
            last = (lower + kappa) / 2
            share = self.share(last, lr, d)
            lower, kappa = (lower, last) if share >= rho else (last, kappa)
            if abs(share - rho) < o.tolerance * rho and (o.released or share >= rho):
                break
        return last if o.released else kappa


LAYERS = st.tuples(
    st.sampled_from(SHAPES), st.sampled_from([2, 4, 5]), st.booleans(), st.sampled_from([0, 0, 1, None]), st.booleans(),
    st.sampled_from([0.0, 1e-6, 1e-3, 1.0]), st.integers(0, 2**16),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    st.lists(LAYERS, min_size=1, max_size=6),
    st.sampled_from([1e-12, 1e-4, 1e-2, 1.0, 1e6]),
    st.sampled_from([1e-6, 1e-3, 0.02, 0.3, 1.0]),
    st.booleans(),
    st.integers(0, 5),
    st.sampled_from([0, 3, 10]),
    st.sampled_from([0.0, 0.01, 0.5]),
)
@example([((8, 18), 4, False, 0, False, 1e-3, 3)], 1e-2, 1e-3, True, 5, 10, 0.01)
def test_all_layers_at_once_equal_one_after_the_other(described, lr, rho, released, rounds, doublings, tolerance) -> None:  # type: ignore[no-untyped-def]
    options = AitOptions(lr=lr, rho=rho, released=released, rounds=rounds, doublings=doublings, tolerance=tolerance, warm=False)
    layers, scales = [], []
    for shape, bits, symmetric, axis, fixed, scale, seed in described:
        rng = torch.Generator().manual_seed(seed)
        made = layer(torch.randn(shape, generator=rng), bits, symmetric, axis if axis is None or axis < len(shape) else 0)
        if fixed:
            made[1].set_range(-0.8, 1.1)
        layers.append(made)
        scales.append((scale, rng))
    together, alone = Inundation(layers, options), [Plain(made, options) for made in layers]
    for _ in range(2):
        gradients = [scale * torch.randn(weight.shape, generator=rng) for (weight, _), (scale, rng) in zip(layers, scales, strict=True)]
        for (weight, _), gradient in zip(layers, gradients, strict=True):
            weight.grad = gradient.clone()
        together.step()
        kappas = [plain.step(gradient, lr, rho) for plain, gradient in zip(alone, gradients, strict=True)]
        assert together.kappa.tolist() == [kappas[i] for i in together.codes.order]
        for (weight, _), plain in zip(layers, alone, strict=True):
            assert torch.equal(weight, plain.weight)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1e-7, 1e-5, 1e-2, 10.0]), st.integers(0, 2**16)), min_size=1, max_size=5), st.booleans())
def test_begun_where_the_last_one_ended_the_search_finds_the_same(gradients: list[tuple[float, int]], released: bool) -> None:
    """On fixed grids, where a longer step never changes fewer codes; longer and shorter factors follow each other."""
    found = []
    for warm in (True, False):
        made = layer(noise(8, 18)), layer(noise(6, 2, 3, 3, seed=1))
        for _, point in made:
            point.set_range(-30.0, 30.0)
        options = AitOptions(lr=1e-2, rho=0.02, warm=warm, released=released)
        inundation, kappas = Inundation(list(made), options), []
        for scale, seed in gradients:
            for i, (weight, _) in enumerate(made):
                weight.grad = scale * noise(*weight.shape, seed=seed + i)
            inundation.step()
            kappas.append(inundation.kappa.tolist())
        found.append(kappas)
    assert found[0] == found[1]


def test_begun_where_the_last_one_ended_the_search_needs_fewer_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for warm in (True, False):
        made = layer(noise(8, 18))
        inundation, count = Inundation([made], AitOptions(lr=1e-4, rho=0.02, rounds=0, warm=warm)), 0
        flips = inundation.codes.flips

        def counting(*inputs: Tensor, of: object = flips) -> Tensor:
            nonlocal count
            count += 1
            return of(*inputs)  # type: ignore[operator,no-any-return]

        monkeypatch.setattr(inundation.codes, "flips", counting)
        for step in range(4):
            made[0].grad = noise(8, 18, seed=10 + step)
            inundation.step()
        counts.append(count)
    assert counts[0] < 0.6 * counts[1]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((6, 2, 3, 3), 0), ((3, 5, 2, 2), 1), ((4, 9), None)])
def test_codes_are_the_points(shape: tuple[int, ...], axis: int | None, symmetric: bool) -> None:
    """Also of a convolution in channels_last, and of several layers in one vector."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layers = [layer(weight, bits, symmetric, axis) for bits in (4, 3, 4)]
    if len(shape) == 4:
        layers[2][0].data = layers[2][0].data.contiguous(memory_format=torch.channels_last)
    codes = Codes(layers)
    for place, part in zip(codes.order, codes.parts(codes.current), strict=True):
        assert torch.equal(part.int(), layers[place][1].codes)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_among_the_few_near_a_threshold_as_many_change_as_among_all(symmetric: bool, fixed: bool) -> None:
    """Also if zero_points change, in a layer far from zero, and in steps longer than prepared."""
    layers = [layer(noise(32, 16, 3, 3, seed=i) + i, 4, symmetric) for i in range(3)]
    for weight, point in layers if fixed else ():
        point.set_range(weight.min(), weight.max() * 0.9)
    codes = Codes(layers)
    codes.direction.copy_(noise(*codes.direction.shape, seed=3))
    codes.aim(1e-3, np.zeros(3), 1.0)
    few, turned = False, 0
    for length in 2.0 ** torch.arange(-14, -4, 0.25, dtype=torch.float64):
        lengths = length * torch.tensor([1.0, 0.7, 1.3], dtype=torch.float64)
        found = codes.flips(lengths.numpy())
        few |= codes._near_thresholds[0] is not None
        codes.free_looks = False
        everywhere = codes.flips(lengths)
        codes.free_looks = True
        assert found.tolist() == everywhere.tolist()
        turned = max(turned, int(everywhere.max()))
    assert few and turned > 144


def stepped(layers: list[tuple[nn.Parameter, WeightPoint]], gradients: list[Tensor], **options: float) -> Inundation:
    inundation = Inundation(layers, AitOptions(**options))  # type: ignore[arg-type]
    for (weight, _), gradient in zip(layers, gradients, strict=True):
        weight.grad = gradient
    inundation.step()
    return inundation


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def changed(made: tuple[nn.Parameter, WeightPoint], before: Tensor) -> float:
    return float((made[1].codes != codes_of(made, before)).double().mean())


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(8, 18), (6, 2, 3, 3), (16, 3, 3, 3)]), st.integers(0, 2**16), st.sampled_from([1e-3, 0.01, 0.1]))
def test_at_least_rho_codes_change(shape: tuple[int, ...], seed: int, rho: float) -> None:
    made = layer(before := noise(*shape, seed=seed))
    stepped([made], [noise(*shape, seed=seed + 1)], lr=1e-4, rho=rho, doublings=20)
    assert changed(made, before) >= rho


def test_few_more_codes_change_than_rho() -> None:
    made = layer(before := noise(64, 576))
    stepped([made], [noise(64, 576, seed=1)], lr=1e-6, rho=1e-3, rounds=12)
    assert 1e-3 <= changed(made, before) < 1.02e-3


def test_last_midpoint_may_miss_rho_and_the_upper_end_does_not() -> None:
    """As in the authors' code, in a layer of 16 x 3 x 3 x 3, where rho is less than one weight."""
    share = {False: [], True: []}  # type: dict[bool, list[float]]
    for seed in range(8):
        for released in share:
            made = layer(before := noise(16, 3, 3, 3, seed=seed))
            stepped([made], [noise(16, 3, 3, 3, seed=seed + 100)], lr=1e-5, rho=1e-3, released=released)
            share[released].append(changed(made, before))
    assert min(share[True]) == 0 < min(share[False])


def test_a_step_that_changes_enough_is_not_shrunk() -> None:
    made, before = layer(noise(8, 18)), noise(8, 18)
    gradient = noise(8, 18, seed=1)
    inundation = stepped([made], [gradient], lr=1.0, rho=1e-3)
    assert changed(made, before) > 0.5 and inundation.kappa.tolist() == [1]


def test_ranges_follow_the_moved_weight() -> None:
    """A step that only shrinks the weight changes no code if the range follows, and many codes on the previous grid."""
    weight = noise(8, 18).mul(2**11).round().div(2**11)  # so that shrinking it is exact
    factors = []
    for live in (True, False):
        made = layer(weight)
        if not live:
            made[1].set_range(*made[1].range)
        inundation = stepped([made], [weight], lr=2**-8, rho=0.1, doublings=4, momentum=0.0)
        factors.append(float(inundation.kappa))
        assert (changed(made, weight) == 0) == live
        assert torch.equal(made[0], weight * (1 - factors[-1] * 2**-8))
    assert factors[0] == 1 < factors[1]


def test_only_the_step_is_longer_not_the_momentum() -> None:
    made, lr = layer(weight := noise(8, 18)), 1e-6
    first, second = noise(8, 18, seed=1), noise(8, 18, seed=2)
    inundation = stepped([made], [first], lr=lr)
    assert inundation.kappa > 10
    at = made[0].detach().clone()
    torch.testing.assert_close(at, weight - float(inundation.kappa) * lr * 1.9 * first)
    made[0].grad = second
    inundation.step()
    direction = second + 0.9 * (0.9 * first + second)
    torch.testing.assert_close(made[0].detach(), at - float(inundation.kappa) * lr * direction)


def test_every_layer_has_its_own_factor() -> None:
    layers = [layer(noise(8, 18, seed=seed)) for seed in range(3)]
    inundation = stepped(layers, [scale * noise(8, 18, seed=9) for scale in (1e-3, 1.0, 1e-1)], lr=1e-3)
    factors = dict(zip(inundation.codes.order, inundation.kappa.tolist(), strict=True))
    assert factors[0] > 4 * factors[2] > 16 * factors[1]


@pytest.mark.parametrize("shape", [(8, 18), (4, 2, 3, 3), (1,)])
def test_zero_gradient_ends_and_moves_nothing(shape: tuple[int, ...]) -> None:
    """No weight decay either. The layer beside it still moves."""
    still, other = layer(before := noise(*shape)), layer(noise(8, 18, seed=3))
    inundation = stepped([still, other], [torch.zeros(shape), noise(8, 18, seed=4)], lr=1e-5, rho=0.01)
    assert torch.equal(still[0], before)
    factors = dict(zip(inundation.codes.order, inundation.kappa.tolist(), strict=True))
    assert factors[0] == 1 < factors[1]


def test_where_no_step_changes_a_code_the_step_is_plain() -> None:
    """A channel with one weight has a grid with this one value, wherever it moves."""
    made = layer(weight := noise(5, 1))
    stepped([made], [gradient := noise(5, 1, seed=1)], lr=1e-3, momentum=0.0)
    assert torch.equal(made[0], weight - 1e-3 * gradient)


def test_factor_is_bounded() -> None:
    """Some codes change at the bound, but fewer than wanted."""
    made = layer(before := noise(64, 64))
    inundation = stepped([made], [noise(64, 64, seed=1)], lr=1e-5, rho=0.9, doublings=6)
    assert inundation.kappa.tolist() == [64] and 0 < changed(made, before) < 0.9


def test_a_weight_without_gradient_stays() -> None:
    layers = [layer(noise(8, 18)), layer(noise(8, 18, seed=1))]
    inundation = Inundation(layers, AitOptions())
    layers[1][0].grad = noise(8, 18, seed=2)
    inundation.step()
    assert torch.equal(layers[0][0], noise(8, 18)) and not torch.equal(layers[1][0], noise(8, 18, seed=1))


def test_number_of_probes_is_bounded_and_ends_when_all_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = []
    flips = Codes.flips
    monkeypatch.setattr(Codes, "flips", lambda *inputs: probes.append(1) or flips(*inputs))
    stepped([layer(noise(8, 18))], [torch.zeros(8, 18)], doublings=7, rounds=5)
    assert len(probes) == 8
    probes.clear()
    stepped([layer(noise(8, 18))], [noise(8, 18, seed=1)], lr=1.0)
    assert len(probes) == 1
