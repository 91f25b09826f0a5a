"""The rounding: bounds on every sum, agreement with a loop over kernels written from the paper, and common mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zsq_squant.rounding import flips, squant_codes

from zsq import grids
from zsq.grids import Grid, WeightPoint

#: Tolerance: errors are rounded to 2^-30 of a step.
EPS = 1e-6


def point_of(weight: Tensor, bits: int = 4, symmetric: bool = False, axis: int | None = 0) -> WeightPoint:
    return WeightPoint(nn.Parameter(weight), bits, symmetric, axis)


@st.composite
def layers(draw: Any, kernels: tuple[int, ...] = (1, 2, 4, 9)) -> tuple[Tensor, Grid]:
    """A weight (O, I, K) and its grid: min/max or cut off at both ends, with generic values, or with many ties."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 8)), draw(st.sampled_from(kernels)))
    bits, symmetric = draw(st.integers(2, 8)), draw(st.booleans())
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(shape, generator=rng) * 10 ** torch.empty(shape[0], 1, 1).uniform_(-3, 2, generator=rng)
    ties = draw(st.booleans())
    if ties:  # quarters of a step
        weight = torch.randint(-(2 ** (bits + 1)), 2 ** (bits + 1), shape, generator=rng) / 4
        lo, hi = torch.tensor(-(2.0 ** (bits - 1))), torch.tensor(2.0 ** (bits - 1) - 1)
        grid = Grid(torch.ones(1, 1, 1), torch.zeros(1, 1, 1), int(lo), int(hi)) if symmetric else grids.asymmetric(lo, hi, bits)
        return weight, grid._replace(scale=grid.scale.reshape(1, 1, 1), zero_point=grid.zero_point.reshape(1, 1, 1))
    point = point_of(weight, bits, symmetric, draw(st.sampled_from((0, None))))
    if draw(st.booleans()):
        point.set_range(*(0.6 * end for end in point.range))
    return weight, point.grid


def exact(weight: Tensor, grid: Grid) -> Tensor:
    """Where a weight lies among the codes, before rounding."""
    return (weight * grid.scale.reciprocal()).double() + grid.zero_point


def inside(weight: Tensor, grid: Grid) -> Tensor:
    """Whether no value had to be clamped."""
    return (exact(weight, grid) >= grid.low) & (exact(weight, grid) <= grid.high)


def errors_of(codes: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    return codes.double() - exact(weight, grid)


def flippable(errors: Tensor, nearest: Tensor, grid: Grid, total: Tensor) -> Tensor:
    """How many elements of each kernel can be flipped against the sign of its sum."""
    up = (errors < -EPS) & (nearest < grid.high) & (total < 0)[..., None]
    down = (errors > EPS) & (nearest > grid.low) & (total > 0)[..., None]
    return (up | down).sum(2)


# -- what holds -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(layers())
def test_moves_are_single_steps_across_the_exact_value_inside_the_grid(layer: tuple[Tensor, Grid]) -> None:
    weight, grid = layer
    nearest = grids.encode(weight, grid)
    codes = squant_codes(weight, grid)
    moved = codes - nearest
    assert codes.dtype == torch.int32 and codes.shape == weight.shape
    assert codes.min() >= grid.low and codes.max() <= grid.high
    assert moved.abs().max() <= 1
    assert ((moved == 0) | (moved == -errors_of(nearest, weight, grid).sign())).all(), "moved away from the exact value"
    assert (moved[~inside(weight, grid)] == 0).all(), "a clamped value was moved"
    assert (errors_of(codes, weight, grid).abs() < 1)[inside(weight, grid)].all()


@settings(deadline=None, max_examples=150)
@given(layers(kernels=(2, 4, 9)))
def test_kernel_sums_after_stage_k(layer: tuple[Tensor, Grid]) -> None:
    """At most half a step wherever the kernel has as many elements to flip as that takes, so always where nothing is clamped;
    where it has fewer, all of them are flipped."""
    weight, grid = layer
    nearest = grids.encode(weight, grid)
    before = errors_of(nearest, weight, grid)
    after = errors_of(squant_codes(weight, grid, channel=False), weight, grid).sum(2)
    total = before.sum(2)
    able = flippable(before, nearest, grid, total)
    enough = able >= total.abs().round()
    assert enough[inside(weight, grid).all(2)].all()
    assert (after.abs()[enough] <= 0.5 + EPS).all()
    assert torch.allclose(after.abs()[~enough], (total.abs() - able)[~enough], atol=EPS)


@settings(deadline=None, max_examples=200)
@given(layers(kernels=(2, 4, 9)))
def test_channel_sums_after_stage_c(layer: tuple[Tensor, Grid]) -> None:
    """At most half a step wherever enough kernels have a candidate, so always where nothing is clamped; one flip per kernel at most.

    A kernel whose sum K left at zero has no candidate (a flip there would bring its sum to one), nor has one that K flipped all it
    could in.
    """
    weight, grid = layer
    nearest = grids.encode(weight, grid)
    before = errors_of(nearest, weight, grid)
    by_kernel = squant_codes(weight, grid, channel=False)
    codes = squant_codes(weight, grid)
    sums, final = errors_of(by_kernel, weight, grid).sum(2), errors_of(codes, weight, grid).sum(2)
    total = sums.sum(1)
    able = flippable(before, nearest, grid, before.sum(2))
    undone = sums * before.sum(2) < 0
    candidate = (sums.abs() > EPS) & (sums.sign() == total.sign()[:, None]) & (undone | (able > before.sum(2).abs().round()))
    wanted = total.abs().round()
    taken = (codes != by_kernel).sum(2)
    settled = (total.abs() % 1 - 0.5).abs() > EPS  # away from ties, whose rounding the last bit decides
    assert taken.max() <= 1
    assert torch.equal(taken.sum(1)[settled], torch.minimum(wanted, candidate.sum(1)).long()[settled])
    enough = candidate.sum(1) >= wanted
    clean = inside(weight, grid).all(2)
    assert enough[clean.all(1)].all()
    assert (final.sum(1).abs()[enough] <= 0.5 + EPS).all()
    assert (final.abs()[clean] < 1).all()
    assert (final[taken == 0] == sums[taken == 0]).all()


@settings(deadline=None, max_examples=100)
@given(layers(kernels=(1,)))
def test_channel_sums_of_layers_with_one_element_per_kernel(layer: tuple[Tensor, Grid]) -> None:
    weight, grid = layer
    nearest = grids.encode(weight, grid)
    before = errors_of(nearest, weight, grid)
    codes = squant_codes(weight, grid)
    total, final = before.sum((1, 2)), errors_of(codes, weight, grid).sum((1, 2))
    able = flippable(before.transpose(1, 2), nearest.transpose(1, 2), grid, total[:, None])[:, 0]
    enough = able >= total.abs().round()
    assert enough[inside(weight, grid).all(2).all(1)].all()
    assert (final.abs()[enough] <= 0.5 + EPS).all()
    assert torch.equal(codes, squant_codes(weight, grid, kernel=False)), "stage K has nothing to do here"


@settings(deadline=None, max_examples=50)
@given(layers(kernels=(2, 4, 9)))
def test_stage_c_leaves_depthwise_kernels_alone(layer: tuple[Tensor, Grid]) -> None:
    weight, grid = layer
    weight = weight[:, :1].contiguous()
    assert torch.equal(squant_codes(weight, grid), squant_codes(weight, grid, channel=False))


@settings(deadline=None, max_examples=50)
@given(layers())
def test_without_both_stages_codes_are_the_nearest(layer: tuple[Tensor, Grid]) -> None:
    weight, grid = layer
    assert torch.equal(squant_codes(weight, grid, kernel=False, channel=False), grids.encode(weight, grid).int())


def test_an_error_sum_of_exactly_zero_moves_nothing() -> None:
    """Also if another kernel's sum needs more flips in stage C than this kernel can make."""
    errors = torch.tensor([[[0.5, -0.5, 0.25, -0.25], [0.3, 0.2, -0.1, 0.0], [0.2, 0.2, 0.1, -0.1]]], dtype=torch.float64)
    anywhere = torch.ones_like(errors, dtype=torch.bool)
    shift = flips(errors, anywhere, anywhere)
    assert (shift[0, 0] == 0).all() and shift.abs().sum() == 1
    assert (flips(torch.zeros(2, 3, 4).double(), anywhere[:, :1], anywhere[:, :1]) == 0).all()


def test_weights_are_worse_one_by_one() -> None:
    """0.0834 -> 0.0905 square steps in the authors' setting: only the sums improve."""
    weight = torch.randn(64, 32, 9, generator=torch.Generator().manual_seed(0))
    grid = point_of(weight).grid
    nearest, codes = grids.encode(weight, grid), squant_codes(weight, grid)
    before, after = (errors_of(c, weight, grid) for c in (nearest, codes))
    assert before.square().mean() == pytest.approx(0.0834, abs=2e-3) and after.square().mean() == pytest.approx(0.0905, abs=2e-3)
    assert after.sum(2).square().mean() < 0.5 * before.sum(2).square().mean()


# -- what is easily got wrong ---------------------------------------------------------------------------------------------


def all_room(errors: Tensor) -> Tensor:
    return flips(errors.double(), torch.ones_like(errors, dtype=torch.bool), torch.ones_like(errors, dtype=torch.bool))


def test_rounded_down_too_much_is_flipped_up_by_largest_error() -> None:
    shift = all_room(torch.tensor([[[-0.1, -0.4, -0.45, -0.2, 0.05]]]))  # sum -1.1: one flip, of the element at -0.45
    assert shift[0, 0].tolist() == [0, 0, 1, 0, 0]
    assert torch.equal(all_room(-torch.tensor([[[-0.1, -0.4, -0.45, -0.2, 0.05]]])), -shift)


def test_stage_c_takes_one_candidate_per_kernel() -> None:
    """Two flips are wanted, and the two largest errors are in one kernel: its sum would end at 1.6."""
    first, other = [-0.45, -0.45, 0.45, 0.05], [-0.3, -0.1, 0.0, 0.0]
    shift = all_room(torch.tensor([[first, other, other, other, other]]))
    assert shift[0].sum(1).tolist() == [1, 1, 0, 0, 0]
    assert shift[0, 0].tolist() == [1, 0, 0, 0] and shift[0, 1].tolist() == [1, 0, 0, 0]


def test_stage_c_undoes_the_last_flip_where_stage_k_went_too_far() -> None:
    """Each kernel: sum -0.6, flipped to +0.4 by its element at -0.4. Over three, +1.2: one of the three flips is undone."""
    shift = all_room(torch.tensor([[[-0.4, -0.2], [-0.39, -0.21], [-0.4, -0.2]]]))
    # priorities are the errors after the flip: 0.6, 0.61 and 0.6
    assert shift[0].tolist() == [[1, 0], [0, 0], [1, 0]]


def test_half_a_step_is_no_reason_to_flip() -> None:
    assert (all_room(torch.tensor([[[-0.25, -0.25]]])) == 0).all()
    assert all_room(torch.tensor([[[-0.5, -0.5, -0.5]]]))[0, 0].tolist() == [1, 1, 0], "1.5 rounds to 2, the first of equals go first"


def test_elements_at_the_ends_of_the_grid_stay() -> None:
    """The weight's largest value lies half a step beyond the last code; its kernel's sum asks for one flip up."""
    grid = grids.asymmetric(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 15.0), 4)
    weight = torch.tensor([[[15.45, 3.4, 3.3, 8.0]]])
    assert squant_codes(weight, grid)[0, 0].tolist() == [15, 4, 3, 8]
    weight = torch.tensor([[[15.45, 15.4, 15.3, 8.0]]])
    assert squant_codes(weight, grid)[0, 0].tolist() == [15, 15, 15, 8], "nobody can be flipped"
    weight = torch.tensor([[[-0.45, 11.6, 11.7, 8.0]]])
    assert squant_codes(weight, grid)[0, 0].tolist() == [0, 11, 12, 8]


def test_sums_are_taken_in_steps_of_each_channel() -> None:
    """Powers of two scale a channel's grid and leave its codes; sums of plain weights would not notice small channels' errors."""
    weight = torch.randn(5, 6, 9, generator=torch.Generator().manual_seed(1))
    factors = torch.tensor([2.0**-8, 2.0**-3, 1.0, 2.0**4, 2.0**9])[:, None, None]
    assert torch.equal(squant_codes(weight, point_of(weight).grid), squant_codes(weight * factors, point_of(weight * factors).grid))
    assert (squant_codes(weight, point_of(weight).grid) != grids.encode(weight, point_of(weight).grid)).flatten(1).any(1).all()


def test_big_layers_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(7, 5, 3, 3, generator=torch.Generator().manual_seed(2))
    whole = squant_codes(weight, point_of(weight).grid), squant_codes(weight, point_of(weight, axis=1).grid, transposed=True)
    monkeypatch.setattr("zsq_squant.rounding._CHUNK", 100)
    parts = squant_codes(weight, point_of(weight).grid), squant_codes(weight, point_of(weight, axis=1).grid, transposed=True)
    assert all(map(torch.equal, whole, parts))


# -- a loop over kernels --------------------------------------------------------------------------------------------------


def pick(values: list[float], total: float, room: list[tuple[bool, bool]]) -> tuple[int, list[int]]:
    """The direction that reduces ``total``, and the elements that can go there, largest error first."""
    direction = 1 if total < 0 else -1
    able = [i for i, d in enumerate(values) if d * direction < 0 and room[i][0 if direction > 0 else 1]]
    return direction, sorted(able, key=lambda i: -abs(values[i]))


def reference(kernels: list[list[float]], rooms: list[list[tuple[bool, bool]]]) -> list[list[int]]:
    """One output channel: errors of its kernels to moves, kernel by kernel as in the paper. Errors are exact in binary."""
    moves = [[0] * len(kernel) for kernel in kernels]
    candidates: list[tuple[int, int, int, float]] = []  # kernel, element, direction, priority
    if len(kernels[0]) == 1:
        for n, (kernel, room) in enumerate(zip(kernels, rooms, strict=True)):
            if kernel[0] != 0 and room[0][0 if kernel[0] < 0 else 1]:
                candidates.append((n, 0, 1 if kernel[0] < 0 else -1, abs(kernel[0])))
    else:
        for n, (kernel, room) in enumerate(zip(kernels, rooms, strict=True)):
            total = sum(kernel)
            if total == 0:
                continue
            direction, order = pick(kernel, total, room)
            k = min(round(abs(total)), len(order))
            for i in order[:k]:
                moves[n][i] = direction
            if k > abs(total):
                last = order[k - 1]
                candidates.append((n, last, -direction, abs(kernel[last] + direction)))
            elif k < abs(total) and k < len(order):
                candidates.append((n, order[k], direction, abs(kernel[order[k]])))
    total = sum(sum(kernel) + sum(move) for kernel, move in zip(kernels, moves, strict=True))
    direction = 1 if total < 0 else -1
    reducing = sorted((c for c in candidates if c[2] == direction and total != 0), key=lambda c: -c[3])
    for n, i, step, _ in reducing[: round(abs(total))]:
        moves[n][i] += step
    return moves


def reference_codes(layer: Any, grid: Grid) -> Tensor:
    """Codes of a layer by going through its output channels and, for each, its own inputs."""
    weight = layer.weight.detach()
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    scale, zero_point = grid.scale.expand_as(weight), grid.zero_point.expand_as(weight)
    nearest = (weight * (1 / scale)).round() + zero_point
    nearest = nearest.clamp(grid.low, grid.high)
    errors = ((nearest - zero_point).double() - weight * (1 / scale)).mul(2**30).round().div(2**30)
    codes = nearest.clone()
    groups = getattr(layer, "groups", 1)
    for output in range(layer.out_channels if hasattr(layer, "out_channels") else len(weight)):
        if transposed:
            each, inputs = layer.out_channels // groups, layer.in_channels // groups
            where = [(i, output % each) for i in range(output // each * inputs, (output // each + 1) * inputs)]
        else:
            where = [(output, i) for i in range(weight.shape[1])]
        kernels = [errors[at].flatten().tolist() for at in where]
        rooms = [[(c < grid.high, c > grid.low) for c in nearest[at].flatten().tolist()] for at in where]
        for at, moves in zip(where, reference(kernels, rooms), strict=True):
            codes[at] += torch.tensor(moves).reshape(codes[at].shape)
    return codes.int()


LAYERS = {
    "linear": lambda: nn.Linear(17, 5),
    "conv1d": lambda: nn.Conv1d(6, 8, 5, groups=2),
    "conv2d": lambda: nn.Conv2d(7, 6, 3),
    "conv3d": lambda: nn.Conv3d(3, 4, (1, 3, 2)),
    "1x1": lambda: nn.Conv2d(15, 4, 1),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "grouped": lambda: nn.Conv2d(12, 9, 3, groups=3),
    "transposed": lambda: nn.ConvTranspose2d(6, 5, 3),
    "transposed, grouped": lambda: nn.ConvTranspose2d(8, 6, 3, groups=2),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_agrees_with_a_loop_over_kernels(kind: str, symmetric: bool, per_channel: bool) -> None:
    for bits in (2, 3, 4, 8):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bits)
            layer = LAYERS[kind]()
        transposed = isinstance(layer, nn.ConvTranspose2d)
        point = WeightPoint(layer.weight, bits, symmetric, int(transposed) if per_channel else None)
        for narrower in (1.0, 0.7):
            point.set_range(*(end * narrower for end in point.range))
            codes = squant_codes(layer.weight, point.grid, transposed=transposed, groups=getattr(layer, "groups", 1))
            assert torch.equal(codes, reference_codes(layer, point.grid))


@settings(deadline=None, max_examples=100)
@given(layers())
def test_agrees_with_a_loop_over_kernels_also_where_values_tie(layer: tuple[Tensor, Grid]) -> None:
    weight, grid = layer
    conv = nn.Conv1d(weight.shape[1], weight.shape[0], weight.shape[2])
    conv.weight = nn.Parameter(weight)
    assert torch.equal(squant_codes(weight, grid), reference_codes(conv, grid))
