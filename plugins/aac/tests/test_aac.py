"""AAC and ABN: what images are driven to, where ranges come from, what moves in BatchNorm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zsq_aac import AacOptions, AbnOptions, ImageOptions
from zsq_aac.batchnorm import Abn
from zsq_aac.clipping import Aac, full_precision
from zsq_aac.images import PixelPool

from zsq.errors import ZsqError
from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing.world import digest, make_batch, make_context, make_stream, make_teacher
from zsq.training import Probe, batch_norms
from zsq.types import Context, InputSpec, Student, Teacher

SMALL = {"images": 16, "batch": 8, "steps": 6}


def student_of(teacher: Teacher, bits: int = 4) -> Student:
    return Uniform(UniformOptions(weight_bits=bits, act_bits=bits), make_context(Path(), teacher=teacher)).quantize(teacher, None)


def context(teacher: Teacher, student: Student | None = None, seed: int = 0) -> Context:
    return make_context(Path(), seed=seed, teacher=teacher, student=student)


def calibrate(kind: type, options: Any, student: Student, teacher: Teacher, stream: Any = None) -> list[Any]:
    return list(kind(options, context(teacher, student)).fit(student, stream))


def ranged_student(teacher: Teacher, bits: int = 4) -> Student:
    student = student_of(teacher, bits)
    calibrate(Aac, AacOptions(**SMALL), student, teacher)
    return student


def relu_outputs(teacher: Teacher, inputs: Tensor) -> list[Tensor]:
    """What the float network's ReLUs give out, in the order of execution, from its own modules."""
    net = teacher.module
    first = torch.relu(net.bn1(net.conv1(inputs)))
    second = torch.relu(net.block.bn2(net.block.conv2(first)))
    return [first, second, torch.relu(net.block.bn3(net.block.conv3(second)) + first)]


# -- images ---------------------------------------------------------------------------------------------------------------


def test_classes_are_dealt_evenly() -> None:
    pool = PixelPool(ImageOptions(images=10, batch=4, steps=1), context(make_teacher()), lambda view, step: (view.batch.inputs.sum(), {}))
    assert sorted(torch.bincount(pool.targets).tolist()) == [2, 2, 3, 3]
    assert pool.targets[:4].sort().values.tolist() == [0, 1, 2, 3] and pool.sizes == [4, 4, 2] and pool.total == 3


def test_no_batch_of_a_single_image() -> None:
    assert PixelPool(ImageOptions(images=9, batch=4, steps=1), context(make_teacher()), None).sizes == [4, 5]


def test_statistics_come_closer() -> None:
    teacher = make_teacher()
    abn = Abn(AbnOptions(images=32, batch=32, steps=40, ce_weight=0.0), context(teacher))
    shown = [float(metrics["bns"]) for metrics in PixelPool(abn.options, abn.ctx, abn.loss).make_all()]
    assert shown[-1] < 0.5 * shown[0]


def test_the_logit_is_unbounded_and_the_target_bounds_it() -> None:
    teacher = make_teacher()

    def reached(**options: Any) -> float:
        aac = Aac(AacOptions(images=16, batch=16, steps=60, bn_weight=0.0, **options), context(teacher))
        return float(list(PixelPool(aac.options, aac.ctx, aac.loss).make_all())[-1]["target_logit"])

    assert reached(variant="logit-target", target=3.0) == pytest.approx(3.0, abs=0.3)
    assert reached(variant="logit") > 6


def test_the_target_is_what_cross_entropy_reached() -> None:
    aac = Aac(AacOptions(images=8, batch=8, steps=9), context(make_teacher()))
    shown = [float(m["target_logit"]) for m in PixelPool(aac.options, aac.ctx, aac.loss).make_all()]
    assert float(aac.level) == shown[3]


@pytest.mark.parametrize("clamp", [True, False])
def test_pixels_can_be_kept_inside_the_real_range(clamp: bool) -> None:
    teacher = make_teacher()
    spec = InputSpec(teacher.inputs.shape, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    ctx = context(teacher)
    aac = Aac(AacOptions(**SMALL, clamp=clamp), ctx.with_(teacher=Teacher(teacher.module, spec, teacher.task)))
    pool = PixelPool(aac.options, aac.ctx, aac.loss)
    list(pool.make_all())
    low, high = spec.limits(torch.empty(0))
    assert low.flatten().tolist() == pytest.approx([-2.5, -4 / 3, -0.75]) and high.flatten().tolist() == pytest.approx([2.5, 2.0, 1.75])
    assert bool(((pool.inputs >= low) & (pool.inputs <= high)).all()) == clamp


# -- ranges ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean-image-max", "max", "percentile"])
def test_ranges_are_those_of_the_float_network(reduction: str) -> None:
    """Also behind weights of 2 bits, and where earlier ranges were set."""
    teacher = make_teacher()
    student = student_of(teacher, 2)
    for point in student.acts.values():
        point.set_range(0.0, 0.01)
    aac = Aac(AacOptions(reduction=reduction, batch=64), context(teacher, student))
    inputs = make_batch(teacher, 64).inputs
    aac.clip(student, inputs)
    for point, values in zip(student.acts.values(), relu_outputs(teacher, inputs), strict=True):
        top = float(point.range[1])
        if reduction == "percentile":
            assert (values <= top).float().mean() == pytest.approx(0.999, abs=2e-3)
        else:
            expected = values.amax((1, 2, 3)).mean() if reduction == "mean-image-max" else values.max()
            assert top == pytest.approx(float(expected), rel=1e-4)
        assert float(point.range[0]) == 0


def test_full_precision_is_the_teacher_and_ends() -> None:
    teacher = make_teacher()
    student = ranged_student(teacher, 2)
    inputs = make_batch(teacher, 8).inputs
    with full_precision(student):
        assert torch.allclose(student.module(inputs), teacher.module(inputs), atol=1e-5)
    assert not torch.allclose(student.module(inputs), teacher.module(inputs), atol=1e-2)


def test_aac_leaves_the_stream_alone_and_closed_early_sets_ranges() -> None:
    teacher = make_teacher()
    student = student_of(teacher)
    work = Aac(AacOptions(**SMALL), context(teacher, student)).fit(student, None)
    assert (beat := next(work)).total == 12 and "target_logit" in beat.metrics
    work.close()
    assert all(torch.isfinite(point.range[1]) and point.range[1] > 0 for point in student.acts.values())


def test_a_frozen_point_keeps_its_range() -> None:
    teacher = make_teacher()
    student = ranged_student(teacher)
    point = next(iter(student.acts.values()))
    point.freeze()
    before = point.range[1].clone()
    calibrate(Aac, AacOptions(**{**SMALL, "steps": 1}), student, teacher)
    assert torch.equal(point.range[1], before)


# -- BatchNorm ------------------------------------------------------------------------------------------------------------


def norm_inputs(module: nn.Module, inputs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of every BatchNorm layer's input."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [
        norm.register_forward_pre_hook(
            lambda _m, x, path=path: seen.update({path: (x[0].mean((0, 2, 3)), x[0].var((0, 2, 3), unbiased=False))})
        )
        for path, norm in batch_norms(module).items()
    ]
    with torch.no_grad():
        module(inputs)
    for handle in handles:
        handle.remove()
    return seen


def test_shift_moves_statistics_by_what_quantization_moved_layer_by_layer() -> None:
    """After one pass on one part: running = teacher's + (student's - teacher's), where the student is the corrected one."""
    teacher = make_teacher()
    student = ranged_student(teacher, 3)
    inputs = make_batch(teacher, 32).inputs
    norms = batch_norms(student.module)
    list(Abn(AbnOptions(), context(teacher, student)).shift(student, norms, [inputs]))
    ours, theirs = norm_inputs(student.module, inputs), norm_inputs(teacher.module, inputs)
    moved = 0.0
    for path, norm in batch_norms(teacher.module).items():
        mean, var = (a - b for a, b in zip(ours[path], theirs[path], strict=True))
        assert torch.allclose(norms[path].running_mean, norm.running_mean + mean, atol=1e-4)
        factor = (ours[path][1] / theirs[path][1]).clamp(0.25, 4)
        assert torch.allclose(norms[path].running_var, norm.running_var * factor, rtol=1e-3)
        moved += float(mean.abs().sum() + var.abs().sum())
    assert moved > 0.1


def test_shift_without_quantization_moves_nothing() -> None:
    teacher = make_teacher()
    student = student_of(teacher, 8)
    inputs = [make_batch(teacher, 8, seed=seed).inputs for seed in range(3)]
    before = {path: norm.running_mean.clone() for path, norm in batch_norms(student.module).items()}
    with full_precision(student):
        list(Abn(AbnOptions(), context(teacher, student)).shift(student, batch_norms(student.module), inputs))
    assert all(torch.allclose(norm.running_mean, before[path], atol=1e-5) for path, norm in batch_norms(student.module).items())


def test_shift_over_several_parts_is_their_mean_where_nothing_comes_before() -> None:
    teacher = make_teacher()
    student = ranged_student(teacher, 2)
    parts = [make_batch(teacher, 8, seed=seed).inputs for seed in range(4)]
    list(Abn(AbnOptions(), context(teacher, student)).shift(student, batch_norms(student.module), parts))
    whole = torch.cat(parts)
    expected = norm_inputs(student.module, whole)["bn1"][0] - norm_inputs(teacher.module, whole)["bn1"][0]
    moved = student.module.get_submodule("bn1").running_mean - teacher.module.get_submodule("bn1").running_mean
    assert torch.allclose(moved, expected, atol=1e-5)


def test_shift_brings_a_coarse_student_closer() -> None:
    teacher = make_teacher()
    student = ranged_student(teacher, 3)
    inputs = make_batch(teacher, 64, seed=3).inputs

    def distance() -> float:
        with torch.no_grad():
            return float((student.module(inputs) - teacher.module(inputs)).square().mean())

    before = distance()
    calibrate(Abn, AbnOptions(images=64, batch=64, steps=30), student, teacher)
    assert distance() < before


def test_variance_factors_stay_inside_the_limit() -> None:
    teacher = make_teacher()
    student = ranged_student(teacher)
    for point in student.acts.values():
        point.set_range(0.0, 1e-3)  # nearly nothing passes on, so variances collapse
    before = {path: norm.running_var.clone() for path, norm in batch_norms(student.module).items()}
    list(Abn(AbnOptions(limit=2.0), context(teacher, student)).shift(student, batch_norms(student.module), [make_batch(teacher, 8).inputs]))
    factors = torch.cat([norm.running_var / before[path] for path, norm in batch_norms(student.module).items()])
    assert factors.min() >= 0.5 - 1e-6 and factors.max() <= 2 + 1e-6 and (factors < 0.51).any()


def test_ema_follows_the_batch_as_batch_norm_does() -> None:
    """The first layer, whose input does not depend on other statistics, against nn.BatchNorm2d in training mode."""
    teacher = make_teacher()
    student = ranged_student(teacher)
    parts = [make_batch(teacher, 8, seed=seed).inputs for seed in range(3)]
    reference = nn.BatchNorm2d(8, momentum=0.3)
    reference.load_state_dict(student.module.get_submodule("bn1").state_dict())
    for part in parts:
        reference(student.module.get_submodule("conv1")(part))
    list(Abn(AbnOptions(mode="ema", momentum=0.3), context(teacher, student)).ema(student, batch_norms(student.module), parts))
    own = student.module.get_submodule("bn1")
    assert torch.allclose(own.running_mean, reference.running_mean, atol=1e-5)
    assert torch.allclose(own.running_var, reference.running_var, rtol=1e-4)


@pytest.mark.parametrize("mode", ["shift", "ema"])
@pytest.mark.parametrize("source", ["bns", "stream"])
def test_only_running_statistics_move(mode: str, source: str) -> None:
    teacher = make_teacher()
    student = ranged_student(teacher)
    rest = {k: v.clone() for k, v in student.module.state_dict().items() if not k.endswith(("running_mean", "running_var"))}
    network = digest(teacher.module)
    options = AbnOptions(**SMALL, mode=mode, source=source, passes=2)
    beats = calibrate(Abn, options, student, teacher, make_stream(teacher, student, batch_size=8))
    assert [beat.step for beat in beats] == list(range(1, beats[-1].total + 1))
    after = student.module.state_dict()
    assert digest({k: after[k] for k in rest}) == digest(rest) and "bn1.num_batches_tracked" in rest
    assert digest(teacher.module) == network
    assert not torch.equal(after["bn1.running_mean"], teacher.module.bn1.running_mean)


def test_abn_from_the_stream_pulls_as_many_images_as_asked() -> None:
    teacher = make_teacher()
    student = ranged_student(teacher)
    stream = make_stream(teacher, student, batch_size=8)
    calibrate(Abn, AbnOptions(images=20, source="stream"), student, teacher, stream)
    assert stream.pulls == 3


def test_a_student_without_batch_norm_is_refused() -> None:
    teacher = make_teacher()
    folded = Student(nn.Sequential(nn.Conv2d(3, 8, 3)), {}, {})
    ctx = context(teacher).with_(probe=Probe(teacher, context(teacher).precision))
    with pytest.raises(ZsqError, match="no BatchNorm"):
        next(Abn(AbnOptions(), ctx).fit(folded, None))
