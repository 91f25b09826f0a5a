"""What the student and the generator are measured by: logits, channel relations, attended features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from zsq_zaq import CrmOptions, OutputOptions, ScrmOptions
from zsq_zaq.losses import Crm, LogitL1, Scrm, adaptive_weights, by_channels, by_pixels, relations, relative_bns, unit

from zsq.errors import PlanError
from zsq.testing.world import make_context, make_teacher
from zsq.types import Batch, BnStats, Trace, View

EPS = 1e-6


def view(student: Any, teacher: Any) -> View:
    """Of outputs (tensors) or of features (mappings)."""
    student, teacher = (Trace(None, x) if isinstance(x, dict) else Trace(x) for x in (student, teacher))
    return View(Batch(torch.zeros(1)), teacher, student, make_teacher().task)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def features(seed: int, channels: tuple[int, ...] = (4, 6, 8)) -> dict[str, Tensor]:
    return {f"stage{i}": noise(3, c, 5, 5, seed=seed + i).relu() for i, c in enumerate(channels)}


def crm(**options: Any) -> Crm:
    return Crm(CrmOptions(**options), make_context(Path()))


# -- logits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 4), (2, 4, 3, 5)])
def test_logits_differ_by_their_mean_or_summed_over_classes(shape: tuple[int, ...]) -> None:
    ours, theirs = noise(*shape), noise(*shape, seed=1)
    mean, summed = (float(LogitL1(OutputOptions(norm=norm), None)(view(ours, theirs))) for norm in ("mean", "l1"))
    assert mean == pytest.approx(float((ours - theirs).abs().mean()), rel=1e-5)
    assert summed == pytest.approx(float((ours - theirs).abs().sum(1).mean()), rel=1e-5)


def test_raw_logits_are_compared_so_that_sure_networks_still_pull() -> None:
    """Softmax of both would be one-hot, and the gradient zero."""
    sure = torch.tensor([[60.0, 0.0, 0.0, 0.0]])
    student = (sure * 0.8).requires_grad_()
    LogitL1(OutputOptions(), None)(view(student, sure)).backward()
    assert student.grad is not None and float(student.grad[0, 0]) == pytest.approx(-0.25)


def test_gradient_reaches_both_networks() -> None:
    """The generator's goes through both."""
    ours, theirs = features(0), features(9)
    for tensor in (*ours.values(), *theirs.values()):
        tensor.requires_grad_()
    for loss in (crm(), Scrm(ScrmOptions(), None)):
        gradients = torch.autograd.grad(loss(view(ours, theirs)), [*ours.values(), *theirs.values()])
        assert all(float(g.abs().sum()) > 0 for g in gradients)
    student, teacher = noise(3, 4).requires_grad_(), noise(3, 4, seed=1).requires_grad_()
    gradients = torch.autograd.grad(LogitL1(OutputOptions(), None)(view(student, teacher)), [student, teacher])
    assert torch.equal(gradients[0], -gradients[1]) and float(gradients[0].abs().sum()) > 0


# -- channel relations ----------------------------------------------------------------------------------------------------


def test_relations_are_cosines_between_channels_of_one_image() -> None:
    x = noise(2, 4, 3, 5)
    maps = relations(x, EPS)
    for n in range(2):
        for i in range(4):
            for j in range(4):
                cosine = torch.cosine_similarity(x[n, i].flatten(), x[n, j].flatten(), 0)
                assert float(maps[n, i, j]) == pytest.approx(float(cosine), abs=1e-5)


@given(st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4))
@settings(max_examples=30, deadline=None)
def test_relations_ignore_the_scale_of_every_channel(scales: list[float]) -> None:
    x = noise(2, 4, 3, 3)
    assert torch.allclose(relations(x * torch.tensor(scales)[:, None, None], EPS), relations(x, EPS), atol=1e-5)


def test_distance_is_the_sum_of_differences_over_channels_squared() -> None:
    ours, theirs = features(0), features(9)
    expected = 0.0
    for tap in ours:
        a, b = relations(ours[tap], EPS), relations(theirs[tap], EPS)
        expected += float((a - b).abs().sum((1, 2)).mean()) / a.shape[1] ** 2
    assert float(crm(layer_weight="uniform")(view(ours, theirs))) == pytest.approx(expected, rel=1e-5)


def test_adaptive_weights_are_softmax_times_layers_of_the_layers_distances() -> None:
    ours, theirs = features(0), features(9)
    distances = torch.stack([(relations(ours[t], EPS) - relations(theirs[t], EPS)).abs().mean() for t in ours])
    expected = 3 * (distances.softmax(0) * distances).sum()
    assert float(crm()(view(ours, theirs))) == pytest.approx(float(expected), rel=1e-5)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_adaptive_weights_average_one_and_favour_what_disagrees(values: list[float]) -> None:
    distances = torch.tensor(values, requires_grad=True)
    weights = adaptive_weights(distances)
    assert not weights.requires_grad and float(weights.mean()) == pytest.approx(1.0, abs=1e-5)
    assert int(weights.argmax()) == int(distances.argmax()) or float(weights.max() - weights[distances.argmax()]) < 1e-5


@pytest.mark.parametrize("loss", ["crm", "scrm"])
def test_the_last_tap_can_be_kept_out(loss: str) -> None:
    def value(changed: str, last: bool) -> float:
        ours, theirs = features(0), features(9)
        theirs[changed] = noise(*theirs[changed].shape, seed=50)
        built = crm(last=last) if loss == "crm" else Scrm(ScrmOptions(last=last), None)
        return float(built(view(ours, theirs)))

    assert value("stage2", last=False) == value("stage2", last=False) != value("stage0", last=False)
    plain = features(0), features(9)
    built = crm(last=False) if loss == "crm" else Scrm(ScrmOptions(last=False), None)
    assert float(built(view(*plain))) == value("stage2", last=False)
    assert value("stage2", last=True) != value("stage1", last=True)


@pytest.mark.parametrize("loss", ["crm", "scrm"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_dead_channels_and_dead_pixels_give_no_nan_and_no_huge_gradient(loss: str, side: str) -> None:
    """Also where the zeros come from a grid that is passed straight through: 1 / eps would come back."""
    ours, theirs = features(0), features(9)
    dead = ours if side == "student" else theirs
    with torch.no_grad():
        dead["stage0"][:, 1] = 0
        dead["stage1"][:, :, 2, 2] = 0
        dead["stage2"].zero_()
    for tensor in dead.values():
        tensor.requires_grad_()
    built = crm() if loss == "crm" else Scrm(ScrmOptions(), None)
    value = built(view(ours, theirs))
    gradients = torch.autograd.grad(value, list(dead.values()))
    assert torch.isfinite(value)
    assert all(torch.isfinite(g).all() and float(g.abs().max()) < 10 for g in gradients)


def test_unit_divides_by_the_norm() -> None:
    x = noise(2, 3, 7)
    assert torch.allclose(unit(x, 1, EPS).norm(dim=1), torch.ones(2, 7)) and torch.allclose(unit(x, 2, EPS) * x.norm(dim=2)[..., None], x)


def test_features_without_positions_will_do() -> None:
    """Of a tap behind the pooling, (N, C)."""
    ours, theirs = {"pool": noise(3, 5)}, {"pool": noise(3, 5, seed=1)}
    for loss in (crm(), Scrm(ScrmOptions(), None)):
        assert torch.isfinite(loss(view(ours, theirs)))


# -- attended features ----------------------------------------------------------------------------------------------------


def test_spatial_branch_is_softmax_attention_between_pixels() -> None:
    x = unit(noise(2, 5, 7), 1, EPS)
    attention = (x.mT @ x).softmax(2)
    assert torch.allclose(by_pixels(x), 0.1 * (x @ attention.mT) + x, atol=1e-6)


def test_channel_branch_gives_weight_to_unlike_channels() -> None:
    x = unit(noise(2, 5, 7), 1, EPS)
    energy = x @ x.mT
    attention = (energy.amax(2, keepdim=True) - energy).softmax(2)
    assert torch.allclose(by_channels(x), 0.1 * (attention @ x) + x, atol=1e-6)
    assert float(attention.diagonal(dim1=1, dim2=2).mean()) < 0.5 / 5


def test_attended_features_add_both_branches_over_layers() -> None:
    ours, theirs = features(0), features(9)
    expected = 0.0
    for tap in ours:
        a, b = (unit(x[tap].flatten(2), 1, EPS) for x in (ours, theirs))
        expected += float((by_pixels(a) - by_pixels(b)).abs().mean() + (by_channels(a) - by_channels(b)).abs().mean())
    assert float(Scrm(ScrmOptions(), None)(view(ours, theirs))) == pytest.approx(expected, rel=1e-5)


def test_attention_between_pixels_is_never_held() -> None:
    """One layer of 256 CIFAR images would take a gibibyte, times four for both networks, forward and backward."""
    side = 16
    x = noise(2, 4, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    held: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        held.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = Scrm(ScrmOptions(), None)(view({"a": x}, {"a": noise(2, 4, side, side, seed=1)}))
    value.backward()
    assert held and max(held) < side**4
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


# -- taps -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("taps", "last", "words"), [((), True, "no taps"), (("bn1",), False, "fewer than two")])
def test_a_teacher_without_enough_taps_is_refused_in_words(taps: tuple[str, ...], last: bool, words: str) -> None:
    ctx = make_context(Path(), teacher=replace(make_teacher(), taps=taps))
    for built in (lambda: Crm(CrmOptions(last=last), ctx), lambda: Scrm(ScrmOptions(last=last), ctx)):
        with pytest.raises(PlanError, match=words) as error:
            built()
        assert error.value.hint
    with pytest.raises(PlanError, match=words):
        crm(last=last)(view({t: noise(2, 3, 4, 4) for t in taps}, {t: noise(2, 3, 4, 4) for t in taps}))


# -- statistics -----------------------------------------------------------------------------------------------------------


def stats(scale: float, shift: float = 0.0, spread: float = 1.0, channels: int = 3) -> BnStats:
    """Off by ``shift`` deviations, and ``spread`` times as wide, where BatchNorm's deviation is ``scale``."""
    mean, var = torch.zeros(channels), torch.full((channels,), scale**2)
    return BnStats(mean + shift * scale, var * spread**2, mean, var)


def test_statistics_that_agree_have_no_distance() -> None:
    assert float(relative_bns({"a": stats(20.0), "b": stats(0.1, channels=5)})) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("scale", [0.1, 1.0, 25.0])
def test_every_channel_counts_in_its_own_deviations_and_every_layer_alike(scale: float) -> None:
    far = stats(scale, shift=0.5, spread=3.0)
    assert float(relative_bns({"a": far, "b": stats(1.0, channels=7)})) == pytest.approx((0.25 + 4.0) / 2, rel=2e-3)


def test_a_channel_without_variance_gives_a_finite_gradient() -> None:
    var = torch.zeros(2, requires_grad=True)
    relative_bns({"a": BnStats(torch.zeros(2), var, torch.zeros(2), torch.tensor([0.0, 400.0]))}).backward()
    assert var.grad is not None and var.grad.isfinite().all() and float(var.grad[1]) < 0
