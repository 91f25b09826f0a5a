"""Losses beside the numbers of the papers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zsq._builtin.classify import Classify
from zsq._builtin.losses import Bns, Ce, Kd, SoftCe
from zsq._builtin.options import ClassifyOptions, KdOptions
from zsq.errors import PlanError
from zsq.options import Options
from zsq.training import BnsDistance, bns_distance
from zsq.types import Batch, BnStats, Trace, View


def view(student: Tensor, teacher: Tensor | None = None, targets: Tensor | None = None, bn: dict[str, BnStats] | None = None) -> View:
    task = Classify(ClassifyOptions(classes=student.shape[1]))
    traces = [Trace(t, bn=bn or {}) for t in (student if teacher is None else teacher, student)]
    return View(Batch(torch.zeros(len(student), 3, 2, 2), targets), traces[0], traces[1], task)


def kd(temperature: float, reduction: str) -> Kd:
    return Kd(KdOptions(temperature=temperature, reduction=reduction), None)  # type: ignore[arg-type]


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("classes", "factor"), [(10, 40.0), (100, 4.0), (1000, 0.4)])
def test_kd_mean_at_t_20_weighs_the_divergence_by_400_over_c(classes: int, factor: float) -> None:
    student, teacher = logits(2, 8, classes).unbind()
    divergence = F.kl_div(F.log_softmax(student / 20, 1), F.softmax(teacher / 20, 1), reduction="batchmean")
    assert float(kd(20, "mean")(view(student, teacher))) == pytest.approx(factor * float(divergence), rel=1e-5)
    assert float(kd(20, "batchmean")(view(student, teacher))) == pytest.approx(400 * float(divergence), rel=1e-5)


def test_kd_at_large_t_is_half_the_variance_of_the_logit_difference() -> None:
    student, teacher = (x.double() for x in logits(2, 64, 10))
    half_variance = 0.5 * (teacher - student).var(1, correction=0).mean()
    assert float(kd(50, "batchmean")(view(student, teacher))) == pytest.approx(float(half_variance), rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 30), st.sampled_from(["mean", "batchmean"]))
def test_kd_is_a_distance_that_moves_the_student_only(seed: int, temperature: float, reduction: str) -> None:
    student, teacher = logits(2, 3, 6, seed=seed).unbind()
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    loss = kd(temperature, reduction)(view(student, teacher))
    loss.backward()
    assert loss > 0 and teacher.grad is None and student.grad is not None
    assert float(kd(temperature, reduction)(view(teacher.detach(), teacher))) == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        assert kd(temperature, reduction)(view(student - 0.01 * student.grad, teacher)) < loss


def test_kd_is_float32_whatever_the_networks_give() -> None:
    assert kd(4, "mean")(view(logits(4, 5).bfloat16(), logits(4, 5, seed=1).bfloat16())).dtype == torch.float32


@pytest.mark.parametrize("loss", [Ce(Options(), None), SoftCe(Options(), None)])  # type: ignore[arg-type]
def test_cross_entropies_take_hard_and_soft_targets(loss: Ce | SoftCe) -> None:
    student = logits(6, 4)
    hard = torch.tensor([0, 1, 2, 3, 0, 1])
    soft = F.softmax(logits(6, 4, seed=1), 1)
    log_q = student - student.logsumexp(1, keepdim=True)
    of_hard = pytest.approx(-float(log_q[range(6), hard].mean()), rel=1e-5)
    assert float(loss(view(student, targets=hard))) == of_hard
    assert float(loss(view(student, targets=F.one_hot(hard, 4).float()))) == of_hard
    assert float(loss(view(student, targets=soft))) == pytest.approx(-float((soft * log_q).sum(1).mean()), rel=1e-5)
    with pytest.raises(PlanError, match="needs targets"):
        loss(view(student))


def statistics(seed: int, channels: tuple[int, ...] = (3, 8, 5)) -> dict[str, BnStats]:
    rng = torch.Generator().manual_seed(seed)
    stats = {}
    for i, c in enumerate(channels):
        mean, var, running_mean, running_var = torch.randn((4, c), generator=rng).unbind()
        stats[f"bn{i}"] = BnStats(mean.clone().requires_grad_(), var.square().requires_grad_(), running_mean.clone(), running_var.square())
    return stats


def plain(bn: dict[str, BnStats]) -> Tensor:
    """The formula as it stands on paper, layer by layer."""
    terms = [F.mse_loss(s.mean, s.running_mean) + F.mse_loss(s.var, s.running_var) for s in bn.values()]
    return torch.stack(terms).mean()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_bns_is_the_formula_and_so_are_its_gradients(seed: int, channels: list[int]) -> None:
    bn = statistics(seed, tuple(channels))
    leaves = [t for s in bn.values() for t in (s.mean, s.var)]
    ours, theirs = bns_distance(bn), plain(bn)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        torch.testing.assert_close(a, b)


def test_bns_gradcheck() -> None:
    double = {k: BnStats(*(t.detach().double() for t in vars(s).values())) for k, s in statistics(0, (2, 3)).items()}
    means = [s.mean.requires_grad_() for s in double.values()]
    assert torch.autograd.gradcheck(lambda *_: bns_distance(double), means, eps=1e-3, atol=1e-3)


def test_bns_is_zero_at_equality() -> None:
    bn = {k: BnStats(s.running_mean.clone(), s.running_var.clone(), s.running_mean, s.running_var) for k, s in statistics(3).items()}
    assert float(bns_distance(bn)) == 0


def test_bns_distance_follows_the_running_statistics_it_is_given() -> None:
    distance, first, second = BnsDistance(), statistics(0), statistics(1)
    again = {k: BnStats(s.mean * 2, s.var, s.running_mean, s.running_var) for k, s in first.items()}
    for bn in (first, again, second, statistics(2, (4,)), first):
        assert distance(bn).item() == pytest.approx(plain(bn).item(), rel=1e-5)


def test_bns_loss_reads_the_teacher() -> None:
    bn = statistics(0)
    assert Bns(Options(), None)(view(logits(2, 3), bn=bn)).item() == pytest.approx(plain(bn).item(), rel=1e-5)  # type: ignore[arg-type]
