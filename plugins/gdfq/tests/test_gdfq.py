"""GDFQ's numbers: what the generator is, what its loss is, when it moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zsq_gdfq import GdfqOptions
from zsq_gdfq.generator import BatchNorm, ConditionalBatchNorm, Generator, ImageStack, Labels, initialising_from
from zsq_gdfq.synth import Gdfq

from zsq.errors import ZsqError
from zsq.testing import teachers
from zsq.testing.world import digest, make_context, make_teacher
from zsq.types import Context


def context(seed: int = 0, classes: int = teachers.CLASSES, shape: tuple[int, ...] = teachers.SHAPE) -> Context:
    return make_context(Path(), seed=seed, teacher=make_teacher(classes=classes, shape=shape), batch_size=8)


def gdfq(**options: object) -> Gdfq:
    return Gdfq(GdfqOptions.parse({"channels": 8, "latent_dim": 6, **options}), context())


@pytest.mark.parametrize(
    ("classes", "side", "conditional", "count"),
    [(10, 32, False, 1_052_139), (100, 32, False, 1_061_139), (1000, 224, True, 41_405_315)],
)
def test_parameter_counts_of_the_published_generators(classes: int, side: int, conditional: bool, count: int) -> None:
    with torch.device("meta"):
        generator = Generator((3, side, side), 100, classes, conditional=conditional)
    assert sum(p.numel() for p in generator.parameters()) == count


def test_conditioning_goes_by_image_size() -> None:
    small, large = (Gdfq(GdfqOptions(channels=2), context(shape=(3, s, s))).generator for s in (60, 64))
    assert small.embedding is not None and isinstance(small.stack.norm0, BatchNorm)
    assert large.embedding is None and isinstance(large.stack.norm0, ConditionalBatchNorm)


def test_options_override_conditioning() -> None:
    assert gdfq(conditioning="cbn").generator.embedding is None
    assert gdfq(conditioning="product").generator.embedding is not None


def test_inner_epsilon_is_where_the_authors_have_it() -> None:
    stack = gdfq().generator.stack
    assert (stack.norm0.eps, stack.norm1.eps, stack.norm2.eps) == (1e-5, 0.8, 0.8)
    assert gdfq(bn_eps=0.1).generator.stack.norm1.eps == 0.1


def test_images_are_standardised_per_channel_and_not_bounded() -> None:
    images = gdfq().sample(64).inputs
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    assert (images.var((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-2
    assert images.abs().max() > 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 16), (4, 4, 4)])
def test_shapes(shape: tuple[int, ...]) -> None:
    synth = Gdfq(GdfqOptions(channels=4), context(shape=shape))
    assert synth.sample(1).inputs.shape == (1, *shape)


def test_sides_that_are_no_multiple_of_4_are_refused() -> None:
    with pytest.raises(ZsqError, match="multiples of 4"):
        Gdfq(GdfqOptions(), context(shape=(3, 30, 32)))


def test_product_conditioning_multiplies() -> None:
    generator = gdfq().generator
    noise, labels = torch.randn(5, 6), Labels.single(torch.tensor([0, 1, 2, 3, 0]))
    assert torch.equal(generator(noise, labels), generator.stack(generator.embedding.weight[labels.classes[:, 0]] * noise, labels))


def test_conditional_batch_norm_is_plain_batch_norm_at_first() -> None:
    x, labels = torch.randn(6, 3, 4, 4), Labels.single(torch.arange(6) % 2)
    assert torch.allclose(ConditionalBatchNorm(3, 2, 0.8)(x, labels), BatchNorm(3, 0.8)(x, labels), atol=1e-6)


def test_conditional_batch_norm_scales_and_shifts_by_class() -> None:
    norm = ConditionalBatchNorm(3, 2, 1e-5)
    with torch.no_grad():
        norm.scale[1], norm.shift[1] = 2.0, 5.0
    x, classes = torch.randn(6, 3, 4, 4), torch.arange(6) % 2
    plain = F.batch_norm(x, None, None, training=True)
    out = norm(x, Labels.single(classes))
    assert torch.allclose(out[classes == 0], plain[classes == 0])
    assert torch.allclose(out[classes == 1], 2 * plain[classes == 1] + 5)


def test_targets_are_uniform_and_hard() -> None:
    targets = gdfq().sample(4000).targets
    assert targets.dtype == torch.int64
    assert (torch.bincount(targets) / 4000 - 0.25).abs().max() < 0.03


def test_loss_is_cross_entropy_plus_the_weighted_statistics() -> None:
    """The gradient that Adam gets equals that of the loss written out."""
    synth, twin = gdfq(bns_weight=0.1), gdfq(bns_weight=0.1)
    batch = twin.sample(8)
    stats: list[torch.Tensor] = []
    norms = [m for m in twin.ctx.teacher.module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_pre_hook(
            lambda m, x: stats.append(
                F.mse_loss(x[0].mean((0, 2, 3)), m.running_mean) + F.mse_loss(x[0].var((0, 2, 3), unbiased=False), m.running_var)
            )
        )
    ce = F.cross_entropy(twin.ctx.teacher.module(batch.inputs), batch.targets)
    bns = sum(stats) / len(norms)
    update = synth.update(synth.ctx.probe)
    assert torch.equal(update.batch.inputs, batch.inputs)
    assert torch.allclose(update.metrics["g_ce"], ce, rtol=1e-5) and torch.allclose(update.metrics["g_bns"], bns, rtol=1e-5)
    grads = torch.autograd.grad(ce + 0.1 * bns, twin.parameters)
    state = [synth.optimizer.state[p]["exp_avg"] / 0.5 for p in synth.parameters]
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-3) for a, b in zip(state, grads, strict=True))


def test_the_batch_handed_on_is_the_one_before_the_step() -> None:
    """Both players see the same x: one generator and one teacher forward per iteration."""
    synth = gdfq()
    calls: list[int] = []
    synth.ctx.teacher.module.register_forward_hook(lambda *_: calls.append(1))
    synth.generator.register_forward_hook(lambda *_: calls.append(2))
    update = synth.update(synth.ctx.probe)
    assert calls == [2, 1] and update.teacher is not None and (synth.cadence.synth, synth.cadence.student) == (1, 1)
    assert synth.cadence.reuse and synth.cadence.first == "synth"


def test_milestones_lower_the_rate_at_that_step() -> None:
    synth = gdfq(milestones=[2, 3], gamma=0.1, lr=1e-2)
    rates = []
    for _ in range(4):
        synth.update(synth.ctx.probe)
        rates.append(synth.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4])


def test_warmup_moves_only_the_generator() -> None:
    synth = gdfq(warmup=3)
    beats = list(synth.prepare(synth.ctx.probe))
    assert [(beat.step, beat.total) for beat in beats] == [(1, 3), (2, 3), (3, 3)] and synth.steps == 3
    assert list(gdfq(warmup=0).prepare(synth.ctx.probe)) == []


def test_updates_lower_the_loss() -> None:
    synth = gdfq(lr=1e-2, betas=[0.5, 0.99], bns_weight=0.5)
    losses = [float(synth.update(synth.ctx.probe).metrics["g_ce"]) for _ in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_teacher_keeps_no_gradient() -> None:
    synth = gdfq()
    synth.update(synth.ctx.probe)
    assert all(p.grad is None for p in synth.ctx.teacher.module.parameters())
    assert all(p.grad is None for p in synth.parameters)


def test_initialisation_draws_from_the_given_generator() -> None:
    before = torch.get_rng_state()
    weights = []
    for seed in (1, 1, 2):
        with initialising_from(torch.Generator().manual_seed(seed)):
            weights.append(digest(nn.Linear(3, 3)))
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(before, torch.get_rng_state())


def test_betas_are_two() -> None:
    with pytest.raises(ZsqError, match="betas"):
        GdfqOptions.parse({"betas": [0.5]})


def test_soft_targets_add_up_duplicates() -> None:
    labels = Labels(torch.tensor([[1, 1], [0, 2]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    assert labels.soft_targets(3).tolist() == [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]


def test_conditional_sum_keeps_scale_and_mean_divides_it() -> None:
    """Qimera's release takes the mean over K where the sum is meant: the feature's scale falls by K."""
    x = torch.randn(8, 3, 4, 4)
    labels = Labels(torch.randint(5, (8, 10)), torch.randn(8, 10).softmax(1))
    whole, divided = (ConditionalBatchNorm(3, 5, 1e-5, mean)(x, labels) for mean in (False, True))
    assert torch.allclose(whole, 10 * divided, atol=1e-5)


def test_stack_runs_for_any_code() -> None:
    assert ImageStack((3, 8, 8), 5, 4, channels=4)(torch.randn(2, 5), Labels.single(torch.zeros(2, dtype=torch.long))).shape == (2, 3, 8, 8)
