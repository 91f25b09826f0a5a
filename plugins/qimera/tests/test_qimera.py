"""Qimera's numbers: superposition, normalisation, embeddings, and what distinguishes the paper from the release."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from zsq_gdfq.generator import ConditionalBatchNorm, Labels
from zsq_qimera import QimeraOptions
from zsq_qimera.synth import Qimera, head_rows

from zsq.errors import ZsqError
from zsq.testing.world import make_context, make_teacher
from zsq.types import Context, Teacher


def context(teacher: Teacher | None = None, seed: int = 0) -> Context:
    return make_context(Path(), seed=seed, teacher=teacher or make_teacher(), batch_size=8)


def qimera(teacher: Teacher | None = None, seed: int = 0, **options: object) -> Qimera:
    return Qimera(QimeraOptions.parse({"channels": 8, **options}), context(teacher, seed))


def with_head(width: int, classes: int, head: nn.Module | None = None, side: int = 32) -> Teacher:
    """The tiny teacher with another last layer, for shapes only."""
    teacher = make_teacher(classes=classes, shape=(3, side, side))
    teacher.module.linear = head or nn.Linear(width, classes)
    return teacher


@pytest.mark.parametrize(("mapping", "count"), [(False, 0.76e6), (True, 1.06e6)])
def test_parameter_counts_of_the_published_cifar_generator(mapping: bool, count: float) -> None:
    synth = Qimera(QimeraOptions(mapping=mapping), context(with_head(64, 10)))
    assert sum(p.numel() for p in synth.parameters) == pytest.approx(count, rel=0.01)


@pytest.mark.parametrize("mixed", [1, 2, 10])
def test_soft_targets_are_distributions(mixed: int) -> None:
    batch = qimera(mixed=mixed, superpose=1.0).sample(64)
    assert batch.targets.shape == (64, 4) and batch.targets.min() >= 0
    assert (batch.targets.sum(1) - 1).abs().max() < 1e-5


def test_single_class_batches_are_one_hot() -> None:
    targets = qimera(superpose=0.0).sample(64).targets
    assert torch.equal(targets.max(1).values, torch.ones(64)) and torch.equal(targets.sum(1), torch.ones(64))


def test_the_coin_is_for_the_whole_batch() -> None:
    synth = qimera(superpose=0.4, mixed=2)
    kinds = [labels.classes.shape[1] for (_, labels), _ in (synth.draw(6) for _ in range(400))]
    assert set(kinds) == {1, 2} and abs(kinds.count(2) / 400 - 0.4) < 0.08


def test_shares_are_a_softmax_of_normals_and_classes_come_with_replacement() -> None:
    """Mean of the largest share: 0.72 for K = 2, 0.32 for K = 10."""
    for mixed, largest in ((2, 0.72), (10, 0.32)):
        (_, labels), _ = qimera(mixed=mixed, superpose=1.0).draw(4000)
        assert labels.weights.max(1).values.mean() == pytest.approx(largest, abs=0.01)
    assert (labels.classes.sort(1).values.diff(dim=1) == 0).any()


def test_every_slot_has_its_own_noise() -> None:
    (noise, _), _ = qimera(superpose=1.0, mixed=3).draw(5)
    assert noise.shape == (5, 3, 8) and not torch.equal(noise[:, 0], noise[:, 1])


@pytest.mark.parametrize(("classes", "mixed"), [(4, 2), (10, 2), (100, 10), (1000, 100)])
def test_number_of_mixed_classes_goes_by_their_number(classes: int, mixed: int) -> None:
    assert qimera(with_head(8, classes)).mixed == mixed
    assert qimera(with_head(8, classes), mixed=500).mixed == 500


@pytest.mark.parametrize("norm", ["paper", "released"])
def test_single_class_embeddings_are_standardised_image_by_image(norm: str) -> None:
    code = qimera(norm=norm).generator.standardised(3 + 2 * torch.randn(16, 1, 8))
    assert code.mean(2).abs().max() < 1e-5 and (code.var(2, unbiased=False) - 1).abs().max() < 1e-3


def test_superposed_embeddings_are_standardised_each_alone_or_slot_by_slot() -> None:
    code = torch.randn(16, 3, 8) * torch.tensor([1.0, 2.0, 3.0])[:, None] + torch.arange(16.0)[:, None, None]
    alone, jointly = (qimera(norm=norm).generator.standardised(code) for norm in ("paper", "released"))
    assert alone.mean(2).abs().max() < 1e-5 and (alone.var(2, unbiased=False) - 1).abs().max() < 1e-3
    assert jointly.mean(2).abs().max() > 0.5
    assert jointly.mean((0, 2)).abs().max() < 1e-5 and (jointly.var((0, 2), unbiased=False) - 1).abs().max() < 1e-3


def test_released_norm_is_batch_norm_over_the_reversed_tensor() -> None:
    """The authors normalise (N, K, D) with all dimensions reversed, by an affine-free BatchNorm1d."""
    code = torch.randn(6, 3, 8)
    theirs = nn.BatchNorm1d(3, affine=False)(code.permute(2, 1, 0)).permute(2, 1, 0)
    assert torch.allclose(qimera(norm="released").generator.standardised(code), theirs, atol=1e-5)
    single = torch.randn(6, 1, 8)
    theirs = nn.BatchNorm1d(6, affine=False)(single[:, 0].T).T
    assert torch.allclose(qimera(norm="released").generator.standardised(single)[:, 0], theirs, atol=1e-5)


def test_noise_is_added_with_its_scale() -> None:
    generator = qimera(noise=0.0, superpose=0.0).generator
    labels = Labels.single(torch.arange(8) % 4)
    first, second = (generator(torch.randn(8, 1, 8), labels) for _ in range(2))
    assert torch.equal(first, second)
    generator.scale = 1.0
    assert not torch.equal(first, generator(torch.randn(8, 1, 8), labels))


def test_mapping_before_mixing_equals_mixing_before_mapping() -> None:
    generator = qimera().generator
    code, weights = torch.randn(5, 3, 8), torch.randn(5, 3).softmax(1)[:, :, None]
    assert torch.allclose((weights * generator.mapping(code)).sum(1), generator.mapping((weights * code).sum(1)), atol=1e-5)


def test_embeddings_start_as_the_teachers_rows() -> None:
    teacher = make_teacher()
    synth = qimera(teacher, embedding="teacher")
    assert torch.equal(synth.generator.embeddings.weight, teacher.module.linear.weight)
    assert synth.generator.embeddings.weight is not teacher.module.linear.weight
    assert synth.generator.embeddings.weight.requires_grad and not teacher.module.linear.weight.requires_grad
    assert not torch.equal(qimera(teacher).generator.embeddings.weight, teacher.module.linear.weight)


def test_embeddings_from_a_1x1_convolution() -> None:
    head = nn.Conv2d(6, 4, 1, bias=False)
    assert torch.equal(head_rows(with_head(6, 4, head)), head.weight[:, :, 0, 0])


def test_without_a_fitting_head_embeddings_are_random_unless_asked_for() -> None:
    teacher = replace(make_teacher(), head="")
    assert qimera(teacher, embedding="auto").generator.embeddings.weight.shape == (4, 100)
    assert qimera(teacher, embedding="auto", latent_dim=7).generator.embeddings.weight.shape == (4, 7)
    with pytest.raises(ZsqError, match="last layer"):
        qimera(teacher, embedding="teacher")
    with pytest.raises(ZsqError, match="input width is 8"):
        qimera(embedding="teacher", latent_dim=7)


@pytest.mark.parametrize("frozen", [True, False])
def test_embeddings_learn_unless_frozen(frozen: bool) -> None:
    synth = qimera(freeze_embedding=frozen)
    before = synth.generator.embeddings.weight.detach().clone()
    synth.update(synth.ctx.probe)
    assert torch.equal(before, synth.generator.embeddings.weight) == frozen


def test_mapping_width() -> None:
    assert qimera(mapping_dim=5).generator.stack.stem.in_features == 5
    assert qimera(mapping=False).generator.stack.stem.in_features == 8 and qimera(mapping=False).generator.mapping is None


@pytest.mark.parametrize("mixed", [2, 10, 100])
@pytest.mark.parametrize("cbn_mix", ["sum", "mean"])
def test_superposed_images_have_unit_deviation_with_the_sum_only(mixed: int, cbn_mix: str) -> None:
    """With the released mean, the generator's features fade by 1/K at each of its three layers and images start nearly blank."""
    teacher = with_head(16, 200, side=16)
    synth = qimera(teacher, conditioning="cbn", cbn_mix=cbn_mix, mixed=mixed, superpose=1.0, embedding="random")
    assert isinstance(synth.generator.stack.norm1, ConditionalBatchNorm)
    deviation = synth.sample(16).inputs.std((0, 2, 3), unbiased=False)
    if cbn_mix == "sum":
        assert (deviation - 1).abs().max() < 0.02
    elif mixed > 2:
        assert deviation.max() < 0.5


def test_loss_takes_the_soft_target() -> None:
    synth, twin = qimera(superpose=1.0), qimera(superpose=1.0)
    batch = twin.sample(8)
    z = twin.ctx.teacher.module(batch.inputs)
    expected = -(batch.targets * z.log_softmax(1)).sum(1).mean()
    assert torch.allclose(synth.update(synth.ctx.probe).metrics["g_ce"], expected, rtol=1e-5)


def test_presets() -> None:
    from zsq_qimera import zsq_synthesizers

    presets = next(zsq_synthesizers()).presets
    paper, released = (QimeraOptions.parse(presets[name]) for name in ("qimera-paper", "qimera-released"))
    assert (paper.mapping, paper.cbn_mix, paper.norm, paper.superpose) == (True, "sum", "paper", 0.4)
    assert (released.mapping, released.cbn_mix, released.norm, released.superpose) == (False, "mean", "released", 0.4)
    assert paper.milestones == released.milestones == (20_000, 40_000, 60_000)
