"""AdaDFQ's generator: agreement and its band, disagreement, the gradient's way through the student, ranges that stand still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from adadfq_logits import entropy_loss, logits, published, view
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from zsq_adadfq import AdadfqOptions, LogitEntropyOptions, zsq_synthesizers
from zsq_adadfq.synth import Adadfq, agreement, mean_of, outside

from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing.world import Stream, digest, make_component, make_context, make_teacher
from zsq.training import MovingAverage
from zsq.types import Context, Student, View


def context(bits: int = 4, seed: int = 0) -> Context:
    teacher = make_teacher()
    student = Uniform(UniformOptions(weight_bits=bits, act_bits=bits), None).quantize(teacher, None)
    return make_context(Path(), seed=seed, teacher=teacher, student=student, batch_size=8)


def adadfq(ctx: Context | None = None, **options: object) -> Adadfq:
    return Adadfq(AdadfqOptions.parse({"channels": 8, "latent_dim": 6, **options}), ctx or context())


def ranged(student: Student) -> Student:
    """With every activation range from 0 to 3."""
    for point in student.acts.values():
        point.set_range(0.0, 3.0)
    return student


# the generator's loss


@given(st.integers(2, 32), st.integers(2, 50), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_agreement_is_the_published_normalised_entropy(images: int, classes: int, seed: int) -> None:
    d = logits(images, classes, seed=seed).requires_grad_()
    wide = d.detach().double().requires_grad_()
    torch.testing.assert_close(agreement(d).double(), published(wide), rtol=1e-3, atol=1e-4)
    push = logits(images, seed=seed + 1)
    ours = torch.autograd.grad((push * agreement(d)).sum(), d)[0].double()  # the minimum takes its share of the gradient
    theirs = torch.autograd.grad((push.double() * published(wide)).sum(), wide)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3 * theirs.abs().max().item() + 1e-6)


@given(st.integers(1, 32), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_batch_minimum_of_agreement_is_zero(images: int, seed: int) -> None:
    values = agreement(logits(images, 10, seed=seed))
    assert values.min() == 0 and values.max() < 1


def test_wrong_5_agreement_is_taken_at_temperature_1_and_the_loss_at_its_own() -> None:
    d = logits(16, 10, seed=1, scale=3)
    assert not torch.allclose(agreement(d), agreement(d / 20), atol=0.05)
    torch.testing.assert_close(agreement(d).double(), published(d), rtol=1e-4, atol=1e-5)
    assert LogitEntropyOptions().temperature == 20.0
    assert entropy_loss(d, torch.zeros_like(d), 1.0) < 0.9 * entropy_loss(d, torch.zeros_like(d), 20.0)


def test_wrong_6_logits_are_subtracted_not_probabilities() -> None:
    """A network twice as sure of the same order of classes differs in logits by far more than in probabilities."""
    z_p = torch.tensor([[10.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    z_q, targets = 2 * z_p, torch.tensor([0, 0])
    metrics = adadfq().loss(view(z_p, z_q, targets))[1]
    h = published(z_p - z_q).float()
    torch.testing.assert_close(metrics["g_margin"], F.relu(0.1 - h).mean() + F.relu(h - 0.8).mean())
    assert metrics["g_as"].item() == pytest.approx(F.cross_entropy(z_p + z_q, targets).item())


def test_wrong_7_the_top_of_agreement_is_log_c_not_the_batch_maximum() -> None:
    d = torch.tensor([[8.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    assert agreement(d)[1] < 0.5
    assert agreement(torch.cat([d, torch.full((1, 3), 7.0)]))[2].item() == pytest.approx(1)


def test_wrong_8_agreement_depends_on_the_batch() -> None:
    d = logits(16, 10, seed=1, scale=2)
    assert not torch.allclose(agreement(d)[:4], agreement(d[:4]))


def test_even_differences_count_as_agreement() -> None:
    d = torch.full((4, 10), 2.0, requires_grad=True)
    values = agreement(d)
    (grad,) = torch.autograd.grad(values.sum(), d)
    assert torch.allclose(values, torch.ones(4), atol=0.1) and grad.isfinite().all()


def test_the_band_costs_what_lies_outside() -> None:
    values = torch.tensor([0.0, 0.1, 0.5, 0.8, 1.0])
    assert outside(values, 0.1, 0.8).item() == pytest.approx((0.1 + 0.2) / 5)


def test_means_are_over_the_images_of_each_kind() -> None:
    """Only the teacher right, both right, only the student right, none right."""
    eye = 4 * torch.eye(3)
    z_p, z_q = eye[[0, 0, 1, 1]], eye[[1, 0, 0, 2]]
    targets = torch.zeros(4, dtype=torch.long)
    metrics = adadfq().loss(view(z_p, z_q, targets))[1]
    assert metrics["g_ds"].item() == pytest.approx(F.cross_entropy((z_p - z_q)[:1], targets[:1]).item())
    assert metrics["g_as"].item() == pytest.approx(F.cross_entropy((z_p + z_q)[1:2], targets[:1]).item())


def test_a_kind_without_images_costs_nothing_and_has_no_gradient() -> None:
    values = torch.tensor([1.0, torch.inf], requires_grad=True)
    empty = mean_of(values, torch.tensor([False, False]))
    empty.backward()
    assert empty == 0 and torch.equal(values.grad, torch.zeros(2))
    assert mean_of(torch.tensor([1.0, 5.0, 3.0]), torch.tensor([True, False, True])) == 2


def test_wrong_3_statistics_weigh_1_and_the_teachers_cross_entropy_is_no_term() -> None:
    assert adadfq().options.bns_weight == 1.0
    assert all(AdadfqOptions.parse(values).bns_weight == 1.0 for values in next(zsq_synthesizers()).presets.values())
    z_p, z_q = logits(64, 4, seed=1), logits(64, 4, seed=2)
    synth = adadfq(alpha_ds=0.3, alpha_as=0.2, beta=0.5)
    total, m = synth.loss(view(z_p, z_q, torch.arange(64) % 4))
    assert set(m) == {"g_margin", "g_ds", "g_as", "g_bns"} and min(m["g_ds"], m["g_as"]) > 0 and m["g_bns"] == 5
    torch.testing.assert_close(total, m["g_margin"] + 0.5 * (0.3 * m["g_ds"] + 0.2 * m["g_as"]) + m["g_bns"])


def test_wrong_4_the_gradient_goes_through_both_networks() -> None:
    z_p, z_q = logits(16, 4, seed=1).requires_grad_(), logits(16, 4, seed=2).requires_grad_()
    adadfq().loss(view(z_p, z_q, torch.arange(16) % 4))[0].backward()
    assert z_p.grad.abs().sum() > 0 and z_q.grad.abs().sum() > 0


def test_wrong_4_no_gradient_lands_in_the_student() -> None:
    """Also while a tuner has its parameters and ranges take gradients."""
    synth = adadfq()
    student = ranged(synth.ctx.student)
    parameters = list(student.module.requires_grad_(True).parameters())
    for point in student.acts.values():
        point.learn_range(True)
        parameters.append(point.log_range)
    before = digest(student.module)
    synth.update(synth.ctx.probe)
    assert all(p.grad is None for p in parameters) and digest(student.module) == before
    assert all(p.grad is None for p in [*synth.parameters, *synth.ctx.teacher.module.parameters()])


def test_wrong_4_the_step_is_that_of_the_loss_through_the_student() -> None:
    """The gradient that Adam gets equals that of the whole loss, and not that with the student's logits detached."""
    synth, twin = adadfq(), adadfq()
    for one in (synth, twin):
        ranged(one.ctx.student)
    synth.update(synth.ctx.probe)
    got = [synth.optimizer.state[p]["exp_avg"] / 0.5 for p in synth.parameters]
    seen = twin.ctx.probe(twin.generate(8), twin.needs)
    wanted = torch.autograd.grad(twin.loss(seen)[0], twin.parameters, retain_graph=True)
    cut = View(seen.batch, seen.teacher, seen.student.detached(), seen.task)
    detached = torch.autograd.grad(twin.loss(cut)[0], twin.parameters)
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-3) for a, b in zip(got, wanted, strict=True))
    assert not all(torch.allclose(a, b, atol=1e-5, rtol=1e-3) for a, b in zip(got, detached, strict=True))


def test_one_teacher_and_one_student_forward_an_update() -> None:
    synth = adadfq()
    calls: list[str] = []
    synth.ctx.teacher.module.register_forward_hook(lambda *_: calls.append("teacher"))
    synth.ctx.student.module.register_forward_hook(lambda *_: calls.append("student"))
    synth.generator.register_forward_hook(lambda *_: calls.append("generator"))
    update = synth.update(synth.ctx.probe)
    assert calls == ["generator", "teacher", "student"]
    assert update.teacher is not None and synth.cadence.reuse and (synth.cadence.synth, synth.cadence.student) == (1, 1)


def test_the_student_is_seen_from_the_first_step_on() -> None:
    """During the warm-up too, its activations then in float; with the teacher's own weights there is nothing to tell apart."""
    metrics = {}
    for bits in (2, 16):
        synth = adadfq(context(bits), warmup=1)
        (beat,) = synth.prepare(synth.ctx.probe)
        metrics[bits] = beat.metrics
    assert metrics[2]["g_as"] != metrics[16]["g_as"]
    assert metrics[2]["g_bns"] == metrics[16]["g_bns"]


def test_the_step_waits_for_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    synth = adadfq()
    ranged(synth.ctx.student)
    synth.update(synth.ctx.probe)

    def sync(self: Tensor, *_: Any) -> Any:
        raise AssertionError("a value was read back")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero"):
        monkeypatch.setattr(Tensor, name, sync)
    synth.update(synth.ctx.probe)


# ranges


def test_wrong_9_ranges_stand_still_in_the_generators_step() -> None:
    """Unless asked for; then they widen to what passes there."""
    for observes in (False, True):
        synth = adadfq(observes=observes)
        student = ranged(synth.ctx.student)
        for point in student.acts.values():
            point.set_range(0.0, 0.01)
        before = [point.range[1].clone() for point in student.acts.values()]
        next(Stream(synth, synth.ctx.probe, student, 8))
        after = [point.range[1] for point in student.acts.values()]
        assert all((a > b) == observes for a, b in zip(after, before, strict=True))


def test_wrong_9_a_calibrator_counts_each_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []
    count = MovingAverage.update
    monkeypatch.setattr(MovingAverage, "update", lambda self, x: (updates.append(1), count(self, x))[1])
    synth = adadfq()
    student, stream = synth.ctx.student, Stream(synth, synth.ctx.probe, synth.ctx.student, 8)
    for _ in make_component("calib", "ema", synth.ctx, batches=5).fit(student, stream):
        pass
    assert len(updates) == 5 * len(student.acts) and synth.steps == 5


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=20))
@settings(max_examples=20, deadline=None)
def test_two_updates_an_iteration_are_one_with_the_squared_decay(maxima: list[float]) -> None:
    """What the recipes' decay of 0.81 stands for."""
    twice, once = MovingAverage(0.9), MovingAverage(0.9**2)
    for value in maxima:
        x = torch.tensor([0.0, value])
        twice.update(x)
        twice.update(x)
        once.update(x)
    torch.testing.assert_close(twice.read(), once.read())
