"""Which component gets which images, the class centres of stage 1, and the presets."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from zsq_intraq import IntraqOptions
from zsq_intraq.distill import IntraqDistiller
from zsq_lrq import AmaOptions, LrqOptions, zsq_synthesizers
from zsq_lrq.attention import LongRangeStack
from zsq_lrq.distill import AmaDistiller, AmaPool
from zsq_lrq.synth import Lrq

from zsq.errors import OptionError
from zsq.files import Cache
from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing import teachers, tiny_run
from zsq.testing.world import Stream, make_context, make_teacher
from zsq.training import Probe
from zsq.types import Context, Precision

SMALL: dict[str, Any] = {"channels": 8, "latent_dim": 6, "images": 16, "batch": 8, "iterations": 2, "warmup": 3, "augment": False}


def context(shape: tuple[int, ...] = (3, 8, 8), classes: int = 4) -> Context:
    return make_context(Path(), teacher=make_teacher(classes=classes, shape=shape), batch_size=8)


def lrq(ctx: Context | None = None, **options: Any) -> Lrq:
    return Lrq(LrqOptions.parse({**SMALL, **options}), ctx or context())


def prepared(**options: Any) -> tuple[Lrq, Stream]:
    """The synthesizer with its stream, as in the engine after ``prepare``."""
    synth = lrq(**options)
    ctx = synth.ctx
    student = Uniform(UniformOptions(weight_bits=4, act_bits=4), ctx).quantize(ctx.teacher, None)
    probe = Probe(ctx.teacher, Precision("fp32"), student)
    for _ in synth.prepare(probe):
        pass
    return synth, Stream(synth, probe, student, ctx.batch_size)


def sources(synth: Lrq, stream: Stream, pulls: int) -> str:
    """One letter per batch: s for stage 1, g for the generator after a step, f for the generator without a step."""
    pool = {image.numpy().tobytes() for image in synth.stage1.pool} if synth.stage1 is not None else set()
    letters = ""
    for _ in range(pulls):
        before = synth.steps
        batch, trace = next(stream)
        assert batch.targets is not None and batch.targets.dim() == 1 and not batch.targets.is_floating_point()
        staged = {image.numpy().tobytes() in pool for image in batch.inputs}
        assert len(staged) == 1 and (trace is not None) == (synth.steps > before)
        letters += "s" if staged == {True} else "g" if synth.steps > before else "f"
    return letters


def test_released_mode_uses_the_generator_for_calibration_only() -> None:
    """After its last step, it neither learns nor makes batches for the student."""
    synth, stream = prepared(train_data="stage1", generator_steps=7)
    assert sources(synth, stream, 4) == "gggg"
    weights = [p.detach().clone() for p in synth.parameters]
    assert sources(synth, stream, 5) == "sssss"
    assert all(torch.equal(a, b) for a, b in zip(weights, synth.parameters, strict=True)) and synth.steps == 7


def test_released_mode_calibrates_on_a_hundred_batches_by_default() -> None:
    assert lrq(train_data="stage1", warmup=700).last == 800
    assert lrq(train_data="both").last is None and lrq(train_data="generator").last is None


def test_generator_mode_has_no_stage_1_and_learns_on() -> None:
    synth, stream = prepared(train_data="generator")
    assert synth.stage1 is None and sources(synth, stream, 4) == "gggg"


def test_both_takes_them_in_turn() -> None:
    synth, stream = prepared(train_data="both")
    assert sources(synth, stream, 6) == "gsgsgs" and synth.steps == SMALL["warmup"] + 3


@pytest.mark.parametrize(("mode", "letters"), [("generator", "ggff"), ("both", "gsgsfs")])
def test_generator_that_stopped_still_makes_its_batches(mode: str, letters: str) -> None:
    synth, stream = prepared(train_data=mode, generator_steps=5)
    assert sources(synth, stream, len(letters)) == letters


def test_teacher_runs_once_for_generator_and_student() -> None:
    """The generator's batches come with its output; on batches of stage 1 it has not run yet."""
    synth, stream = prepared(train_data="both")
    forwards = []
    handle = synth.ctx.teacher.module.register_forward_hook(lambda *_: forwards.append(1))
    for batch, trace in islice(stream, 4):
        stream.probe(batch, {"teacher.output", "student.output"}, teacher=trace)
    handle.remove()
    assert len(forwards) == 4


def test_what_evaluators_get() -> None:
    synth, _ = prepared(train_data="stage1")
    assert all(any(torch.equal(image, other) for other in synth.stage1.pool) for image in synth.sample(5).inputs)
    assert prepared(train_data="generator")[0].sample(5).inputs.shape == (5, 3, 8, 8)


@pytest.mark.parametrize("beats", [1, 4, 6])
def test_work_that_a_budget_cuts_short_shortens_the_generators_work(beats: int) -> None:
    """Stage 1 takes 4 beats, the warm-up 3; otherwise the generator's batches for calibration would also train the student."""
    synth = lrq(train_data="stage1", generator_steps=5)
    work = synth.prepare(synth.ctx.probe)
    for _ in range(beats):
        next(work)
    work.close()
    assert synth.steps == max(0, beats - 4) and synth.last - synth.steps == 2
    assert len(synth.sample(3)) == 3


def test_beats_count_both_stages() -> None:
    synth = lrq()
    beats = [(beat.step, beat.total) for beat in synth.prepare(synth.ctx.probe)]
    assert beats == [(step, 7) for step in range(1, 8)]


# Stage 1


def features(pool: AmaPool, images: Tensor) -> Tensor:
    teacher = pool.ctx.teacher.module
    return F.adaptive_avg_pool2d(teacher.block(F.relu(teacher.bn1(teacher.conv1(images)))), 1).flatten(1)


def test_centres_are_plain_means_of_earlier_batches_and_carry_no_gradient() -> None:
    """No real data, not the current batch, no moving average: the margin loss by hand, from finished images."""
    synth = lrq(images=24, lor=0.0, lambda_l=0.3, lambda_u=0.35)
    pool = synth.stage1
    for _ in pool.prepare(synth.ctx.probe):
        pass
    distiller = pool.maker()
    done = [(pool.pool[i : i + 8], pool.targets[i : i + 8]) for i in (0, 8)]
    distiller.remember(done)
    x, y = pool.pool[16:].clone().requires_grad_(), pool.targets[16:]
    distiller.begin(y, torch.Generator().manual_seed(0))
    _, metrics = distiller.loss(x, y)
    v, seen, labels = features(pool, x), features(pool, pool.pool[:16]), pool.targets[:16]
    centres = torch.stack([seen[labels == c].mean(0) for c in range(4)])
    theta = F.cosine_similarity(v, centres[y], 1).acos()
    d = 1 - torch.cos(theta + 0.5)
    expected = (F.relu(0.3 - d) + F.relu(d - 0.35)).mean().detach()
    assert expected > 0.01 and float(metrics["mdc"]) == pytest.approx(float(expected), rel=1e-4)
    assert not any(t.requires_grad for t in vars(distiller).values() if isinstance(t, Tensor))


def test_first_batch_sees_no_margin() -> None:
    synth = lrq()
    pool = synth.stage1
    distiller = pool.maker()
    x, y = pool.begin((0, 8))
    distiller.remember([])
    distiller.begin(y, torch.Generator().manual_seed(0))
    assert float(distiller.loss(x, y)[1].get("mdc", torch.zeros(()))) == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_margin_takes_the_place_of_intraqs_distance(sign: int) -> None:
    cosine = torch.linspace(-0.9, 0.9, 7)
    ours = AmaDistiller(AmaOptions(ama_sign=sign), context()).distance(cosine)
    assert torch.allclose(ours, 1 - torch.cos(cosine.acos() + sign * 0.5), atol=1e-5)
    theirs = IntraqDistiller(IntraqOptions(), context()).distance(cosine)
    assert not torch.allclose(ours, theirs)
    assert torch.allclose(AmaDistiller(AmaOptions(margin=0.0), context()).distance(cosine), theirs)


@pytest.mark.parametrize(("sign", "compare"), [(1, torch.lt), (-1, torch.gt)])
def test_released_sign_pulls_towards_the_centre_and_the_other_away(sign: int, compare: Any) -> None:
    """At 60 degrees, inside IntraQ's band of 45.6 to 78.5, where IntraQ itself leaves an image alone."""
    cosine = torch.tensor([math.cos(math.radians(60))], requires_grad=True)
    d = AmaDistiller(AmaOptions(ama_sign=sign), context()).distance(cosine)
    (F.relu(0.3 - d) + F.relu(d - 0.8)).sum().backward()
    assert compare(cosine.grad, 0).all()  # descent raises the cosine where its gradient is negative


def test_stage_1_has_its_own_rate_and_weight() -> None:
    options = LrqOptions(lr=0.002, pixel_lr=0.3, bns_weight=0.1, pixel_bns_weight=2.0, margin=0.2, images=32)
    own = options.stage1()
    assert (own.lr, own.bns_weight, own.margin, own.images) == (0.3, 2.0, 0.2, 32)
    assert own.gamma == AmaOptions().gamma != options.gamma
    assert lrq(lr=0.002).optimizer.param_groups[0]["lr"] == 0.002


def test_pools_of_other_margins_are_kept_apart(tmp_path: Path) -> None:
    keys = [lrq(**options).stage1.key((0, 8)) for options in ({}, {"ama_sign": -1}, {"margin": 0.3}, {"channels": 16})]
    paths = [Cache(tmp_path, "pools").path(key) for key in keys]
    assert len(set(paths)) == 3 and paths[0] == paths[3]


def test_hard_labels_stay_where_probabilities_aim_below_1() -> None:
    synth, stream = prepared(train_data="stage1", eps=0.1, generator_steps=3)
    batch, _ = next(stream)
    assert batch.targets.dtype == torch.int64 and synth.stage1.targets.unique().tolist() == [0, 1, 2, 3]


# Student and generator


def test_student_keeps_its_batch_norm_statistics() -> None:
    result = tiny_run({"synth": {"name": "lrq", **SMALL}, "loss": ["ce", "dkd"], "tune": "finetune"}, steps=3)
    assert not any(module.training for module in result.student.module.modules())
    own, theirs = dict(result.student.module.named_buffers()), dict(make_teacher().module.named_buffers())
    for path in ("bn1.running_mean", "block.bn2.running_var", "block.bn3.running_mean"):
        assert torch.equal(own[path], theirs[path])


def test_training_stays_finite_where_the_loss_is_large() -> None:
    """The authors' logs of CIFAR runs have NaN after some epochs. The loss here passes 50, where 1 - p_y is 0 in float32."""
    tune = {"name": "finetune", "optimizer": "sgd", "lr": 0.002, "weight_decay": 1e-4, "range_lr": 0}
    result = tiny_run({"synth": {"name": "lrq", **SMALL}, "loss": ["ce", "dkd"], "tune": tune}, steps=30)
    assert all(torch.isfinite(p).all() for p in result.student.module.parameters())


@pytest.mark.parametrize(("side", "where"), [(8, "upsampling"), (64, "block")])
def test_attention_stands_where_the_authors_scripts_have_it(side: int, where: str) -> None:
    synth = lrq(context((3, side, side)), channels=4, train_data="generator")
    assert isinstance(synth.generator.stack, LongRangeStack) and synth.generator.stack.where == where
    assert lrq(channels=4, attention="none").generator.stack.attention is None


def test_kernel_without_a_middle_is_refused() -> None:
    with pytest.raises(OptionError, match="no centre"):
        LrqOptions(kernel=12, dilation=3)
    assert lrq(kernel=9, dilation=3).generator.stack.attention.wide.kernel_size == (3, 3)


def test_generator_that_stops_before_its_warm_up_is_refused() -> None:
    with pytest.raises(OptionError, match="at least warmup"):
        LrqOptions(generator_steps=10, warmup=11)


def test_five_steps_of_the_cifar_generator() -> None:
    """The smoke test of the method: batch 8, the attention learns, images stay standardised."""
    ctx = make_context(Path(), teacher=make_teacher(teachers.tiny32(), 10, (3, 32, 32)), batch_size=8)
    synth = Lrq(LrqOptions(train_data="generator"), ctx)
    before = synth.generator.stack.attention.wide.weight.detach().clone()
    for _ in range(5):
        update = synth.update(ctx.probe)
    assert torch.isfinite(update.metrics["g_ce"]) and not torch.equal(before, synth.generator.stack.attention.wide.weight)
    images = synth.sample(8).inputs
    assert images.mean((0, 2, 3)).abs().max() < 1e-4 and (images.var((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-2


def test_presets() -> None:
    presets = {name: LrqOptions.parse(values) for name, values in next(zsq_synthesizers()).presets.items()}
    released, paper = presets["lrq-released"], presets["lrq-paper"]
    assert (released.train_data, released.ama_sign, released.warmup, released.generator_steps) == ("stage1", 1, 700, 800)
    assert (paper.train_data, paper.ama_sign, paper.generator_steps) == ("both", -1, None)
    for o in (released, paper):
        assert (o.images, o.batch, o.iterations, o.pixel_lr, o.schedule) == (5120, 256, 1000, 0.5, "plateau")
        assert (o.margin, o.bns_weight, o.pixel_bns_weight, o.lr, o.betas) == (0.5, 0.1, 1.0, 1e-3, (0.5, 0.999))
    bands = {name: (o.eps, o.lambda_l, o.lambda_u) for name, o in presets.items() if "released" in name}
    assert list(bands.values()) == [(0.95, 0.05, 0.8), (0.6, 0.02, 1.0), (0.9, 0.3, 0.8)]
