"""The student's loss of AdaDFQ: the published one, what it comes to for small differences, and its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from adadfq_logits import entropy, entropy_loss, logits, view
from hypothesis import given, settings
from hypothesis import strategies as st
from zsq_adadfq.losses import shortfall

from zsq.testing.world import make_component


def test_the_loss_is_the_published_one_up_to_its_constant() -> None:
    z_p, z_q = logits(8, 10, seed=1, scale=5), logits(8, 10, seed=2, scale=5)
    for t in (1.0, 5.0, 20.0):
        expected = -t * t * entropy((z_p - z_q) / t).mean() + t * t * math.log(10)
        assert entropy_loss(z_p, z_q, t).item() == pytest.approx(expected.item(), rel=1e-4)


def test_wrong_2_the_loss_falls_towards_the_teacher() -> None:
    """The student maximises the entropy of the difference; agreement, up to a shift of all logits, is 0."""
    z_p, z_q = logits(8, 10, seed=1), logits(8, 10, seed=2)
    losses = [entropy_loss(z_p, z_p + share * (z_q - z_p)).item() for share in (0.0, 0.3, 1.0, 2.0)]
    assert losses == sorted(losses) and losses[1] > 1e-3
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert entropy_loss(z_p, z_p + 3).item() == pytest.approx(0, abs=1e-4)


@given(st.integers(2, 50), st.integers(0, 1000), st.sampled_from([5.0, 20.0]))
@settings(max_examples=30, deadline=None)
def test_the_loss_is_half_the_variance_of_the_difference(classes: int, seed: int, temperature: float) -> None:
    """For a difference far smaller than the temperature; then its gradient is -(d - mean d) / (B · C)."""
    z_p, d = logits(6, classes, seed=seed), logits(6, classes, seed=seed + 1, scale=temperature / 100)
    z_q = (z_p - d).requires_grad_()
    loss = entropy_loss(z_p, z_q, temperature)
    (grad,) = torch.autograd.grad(loss, z_q)
    half_variance = 0.5 * d.var(1, unbiased=False).mean()
    assert loss.item() == pytest.approx(half_variance.item(), rel=0.05, abs=1e-6)
    expected = -(d - d.mean(1, keepdim=True)) / (6 * classes)
    assert (grad - expected).abs().max() <= 0.05 * expected.abs().max() + 1e-6


def test_half_the_variance_also_at_the_distances_that_occur() -> None:
    """The sheet's measure: within 0.3 percent for logit gaps of deviation 1 at both published temperatures."""
    z_p, z_q = logits(64, 10, seed=1), logits(64, 10, seed=2)
    half_variance = 0.5 * (z_p - z_q).var(1, unbiased=False).mean().item()
    assert entropy_loss(z_p, z_q, 20.0).item() == pytest.approx(half_variance, rel=0.01)
    assert entropy_loss(z_p, z_q, 5.0).item() == pytest.approx(half_variance, rel=0.05)


def test_the_loss_is_the_number_of_classes_times_gdfqs_divergence() -> None:
    z_p, z_q = logits(64, 10, seed=1), logits(64, 10, seed=2)
    divergence = make_component("loss", "kd", temperature=20.0, reduction="mean")(view(z_p, z_q))
    assert entropy_loss(z_p, z_q).item() == pytest.approx(10 * divergence.item(), rel=0.05)


def test_the_teachers_logits_take_no_gradient_from_the_student() -> None:
    z_p, z_q = logits(4, 5, seed=1).requires_grad_(), logits(4, 5, seed=2).requires_grad_()
    entropy_loss(z_p, z_q).backward()
    assert z_p.grad is None and z_q.grad is not None


@pytest.mark.parametrize("scale", [1e-4, 1e4, 1e30])
def test_the_loss_is_finite_for_tiny_and_huge_differences(scale: float) -> None:
    z_q = logits(4, 5, seed=2, scale=scale).requires_grad_()
    loss = entropy_loss(torch.zeros(4, 5), z_q, 5.0)
    (grad,) = torch.autograd.grad(loss, z_q)
    assert loss > -1e-5 and loss.isfinite() and grad.isfinite().all()


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_shortfall_is_what_entropy_lacks(classes: int) -> None:
    for scale in (0.1, 1.0, 10.0):
        d = logits(16, classes, seed=3, scale=scale)
        torch.testing.assert_close(shortfall(d).double(), math.log(classes) - entropy(d), rtol=1e-4, atol=1e-6)
