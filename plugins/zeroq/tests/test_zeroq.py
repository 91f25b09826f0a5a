"""ZeroQ: the objective in the papers' conventions, the authors' loop, the pool, and what is kept of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zsq_zeroq import ZeroqOptions, zsq_synthesizers
from zsq_zeroq.distill import Distiller, Plateau, start
from zsq_zeroq.synth import Zeroq

from zsq.errors import ZsqError
from zsq.run.precision import Precision
from zsq.run.probe import Probe, batch_norms
from zsq.testing.world import digest, make_context, make_teacher
from zsq.types import Batch, Context, InputSpec, Teacher

SMALL = {"images": 12, "batch": 4, "iterations": 3}
RELEASED = next(iter(zsq_synthesizers())).presets["zeroq-released"]


def context(seed: int = 0, cache: Path | None = None, teacher: Teacher | None = None, log: Any = None) -> Context:
    return make_context(Path(), seed=seed, teacher=teacher or make_teacher()).with_(cache=cache, log=log or (lambda message: None))


def synth(ctx: Context | None = None, **options: Any) -> Zeroq:
    return Zeroq(ZeroqOptions.parse({**SMALL, **options}), ctx or context())


def prepared(ctx: Context | None = None, **options: Any) -> Zeroq:
    made = synth(ctx, **options)
    list(made.prepare(made.ctx.probe))
    return made


def noise(n: int = 6, seed: int = 1) -> Tensor:
    return torch.randn((n, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).requires_grad_()


def norm_inputs(module: nn.Module, x: Tensor) -> list[tuple[Tensor, nn.BatchNorm2d]]:
    seen: list[Any] = []
    handles = [norm.register_forward_pre_hook(lambda m, inputs: seen.append((inputs[0], m))) for norm in batch_norms(module).values()]
    module(x)
    for handle in handles:
        handle.remove()
    return seen


# -- the objective --------------------------------------------------------------------------------------------------------


def released_loss(module: nn.Module, x: Tensor) -> Tensor:
    """Sheet: per image, std = sqrt(unbiased variance + 1e-6) on both sides, sum over channels, mean over images, sum over layers."""

    def off(z: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
        ours = z.mean((2, 3)), (z.var((2, 3)) + 1e-6).sqrt()
        return ((ours[0] - mean) ** 2).sum() / len(z) + ((ours[1] - std) ** 2).sum() / len(z)

    return off(x, 0.0, 1.0) + sum(off(z, m.running_mean, (m.running_var + 1e-6).sqrt()) for z, m in norm_inputs(module, x))


def reconstruct_loss(module: nn.Module, x: Tensor) -> Tensor:
    """Sheet: as released, but layers summed over images and divided by channels; the input still divided by images."""

    def off(z: Tensor, mean: Tensor | float, std: Tensor | float, by: int) -> Tensor:
        ours = z.mean((2, 3)), (z.var((2, 3)) + 1e-6).sqrt()
        return (((ours[0] - mean) ** 2).sum() + ((ours[1] - std) ** 2).sum()) / by

    layers = (off(z, m.running_mean, (m.running_var + 1e-6).sqrt(), z.shape[1]) for z, m in norm_inputs(module, x))
    return off(x, 0.0, 1.0, len(x)) + sum(layers)


def genie_loss(module: nn.Module, x: Tensor) -> Tensor:
    """Sheet: batch statistics, unbiased std, mean over channels, sum over layers."""
    total = torch.zeros(())
    for z, m in norm_inputs(module, x):
        std, goal = (z.var((0, 2, 3)) + 1e-6).sqrt(), (m.running_var + 1e-6).sqrt()
        total = total + F.mse_loss(z.mean((0, 2, 3)), m.running_mean) + F.mse_loss(std, goal)
    return total


def intraq_loss(module: nn.Module, x: Tensor) -> Tensor:
    """Sheet: batch statistics, biased variance, mean over channels, mean over layers."""
    each = [
        F.mse_loss(z.mean((0, 2, 3)), m.running_mean) + F.mse_loss(z.var((0, 2, 3), correction=0), m.running_var)
        for z, m in norm_inputs(module, x)
    ]
    return sum(each) / len(each)


GENIE = {"bn_weight": 1, "class_weight": 0, "spread": "std", "unbiased": True, "over_layers": "sum"}
RECONSTRUCT = {**RELEASED, "over_images": "sum", "over_channels": "mean"}


@pytest.mark.parametrize(
    ("options", "plain"),
    [(RELEASED, released_loss), (RECONSTRUCT, reconstruct_loss), (GENIE, genie_loss), ({"bn_weight": 1, "class_weight": 0}, intraq_loss)],
)
def test_loss_and_gradient_in_the_conventions_of_the_papers(options: Any, plain: Any) -> None:
    ctx = context()
    x = noise().detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    loss, _ = Distiller(ZeroqOptions.parse(options), ctx).loss(x, torch.zeros(6, dtype=torch.int64))
    loss.backward(inputs=[x])
    y = noise()
    expected = plain(make_teacher().module, y)
    expected.backward(inputs=[y])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(x.grad, y.grad, rtol=1e-4, atol=1e-5 * float(y.grad.abs().max()))


def test_weights_of_the_terms() -> None:
    ctx, targets = context(), torch.tensor([0, 1, 2, 3, 0, 1])

    def loss(**options: float) -> float:
        zero = {"bn_weight": 0.0, "class_weight": 0.0, "input_weight": 0.0}
        return float(Distiller(ZeroqOptions(**{**zero, **options}), ctx).loss(noise().detach(), targets)[0])

    ce = float(F.cross_entropy(ctx.teacher.module(noise().detach()), targets))
    assert loss(class_weight=2.0) == pytest.approx(2 * ce, rel=1e-5)
    means, spreads = loss(bn_weight=1.0, spread_weight=0.0), loss(bn_weight=1.0, mean_weight=0.0)
    assert means > 0 and spreads > 0 and loss(bn_weight=3.0, mean_weight=2.0) == pytest.approx(3 * (2 * means + spreads), rel=1e-5)
    assert loss(bn_weight=1.0, class_weight=0.5, input_weight=2.0) == pytest.approx(
        means + spreads + 0.5 * ce + 2 * loss(input_weight=1.0), rel=1e-5
    )


def test_a_teacher_whose_batch_norm_is_never_run_is_refused() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.BatchNorm2d(3), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.mean((2, 3)))

    with pytest.raises(ZsqError, match="no BatchNorm"):
        prepared(context(teacher=make_teacher(Idle().eval().requires_grad_(False))))


# -- the loop -------------------------------------------------------------------------------------------------------------


def test_the_released_preset_is_the_authors_loop() -> None:
    """Against elementary operations, torch's Adam and torch's scheduler. Not bit for bit: statistics come from other kernels."""
    ctx = context()
    ours = prepared(ctx, **{**RELEASED, "images": 6, "batch": 6, "iterations": 12})
    module = make_teacher().module
    x = start("released", (6, 3, 8, 8), ours.generator("images 0")).requires_grad_()
    adam = torch.optim.Adam([x], 0.5)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, patience=100, min_lr=1e-4)
    for _ in range(12):
        adam.zero_grad()
        loss = released_loss(module, x)
        loss.backward()
        adam.step()
        schedule.step(loss.item())
    assert torch.allclose(ours.pool, x.detach(), atol=1e-3)
    assert torch.equal(ours.targets, module(ours.pool).argmax(1))


def test_plateau_is_torchs_scheduler() -> None:
    """Also over 2000 steps of losses that improve, stall and jump; down to the smallest rate."""
    rng = torch.Generator().manual_seed(0)
    losses = torch.cat(
        [torch.linspace(9, 2, 60), 2 + torch.rand(900, generator=rng), torch.linspace(1.9, 1.8, 300), torch.full((740,), 1.9)]
    )
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], 0.5)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, patience=100, min_lr=1e-4)
    ours, rates = Plateau(0.5, torch.device("cpu")), set()
    for loss in losses:
        ours.step(loss)
        theirs.step(float(loss))
        assert float(ours.lr) == adam.param_groups[0]["lr"]
        rates.add(float(ours.lr))
    assert len(rates) == 5 and min(rates) == 1e-4


def test_plateau_moves_the_images_less_once_the_loss_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsq_zeroq.distill.PATIENCE", 1)
    ctx = context()
    distiller = Distiller(ZeroqOptions(iterations=30, schedule="plateau", lr=50.0), ctx)
    x = noise().detach().requires_grad_()
    moved, before = [], x.detach().clone()
    for _ in distiller.make(x, torch.zeros(6, dtype=torch.int64)):
        moved.append(float((x.detach() - before).abs().max()))
        before = x.detach().clone()
    assert moved[-1] < 0.1 * moved[0]


@pytest.mark.parametrize(("init", "std"), [("normal", 1.0), ("uniform", 1.0), ("released", 0.0136)])
def test_what_images_start_from(init: str, std: float) -> None:
    x = start(init, (64, 3, 16, 16), torch.Generator().manual_seed(0))
    assert float(x.std()) == pytest.approx(std, rel=0.02) and float(x.mean()) == pytest.approx(0, abs=0.02 * std)
    if init == "released":
        assert float(x.min()) == pytest.approx(-127.5 / 5418.75) and float(x.max()) == pytest.approx(126.5 / 5418.75)
        assert len(x.unique()) == 255


def test_early_stop_ends_a_batch_at_its_threshold() -> None:
    ctx = context()
    options = {"images": 8, "batch": 8, "iterations": 60, "class_weight": 0.0, "bn_weight": 1.0}
    losses = [float(beat.metrics["loss"]) for beat in synth(ctx, **options).prepare(ctx.probe)]
    threshold = (losses[0] + losses[-1]) / 2
    stopped = synth(context(), **options, early_stop=threshold / 4)  # 3 BatchNorm layers and the input
    beats = list(stopped.prepare(ctx.probe))
    first = next(i for i, loss in enumerate(losses) if loss <= threshold)
    assert 0 < first < 59 and len(beats) == first + 1
    assert beats[-1].step == beats[-1].total == 60 and float(beats[-1].metrics["loss"]) <= threshold
    loss, _ = Distiller(ZeroqOptions.parse(options), ctx).loss(stopped.pool, stopped.targets)
    assert float(loss) == pytest.approx(losses[first], rel=1e-5), "the images are those that met the threshold"


def smooth_teacher() -> Teacher:
    """The tiny teacher, as if trained on smooth images that are not centred: noise is far from its statistics."""
    teacher = make_teacher()
    images = F.interpolate(torch.randn((64, 3, 2, 2), generator=torch.Generator().manual_seed(5)), size=8, mode="bilinear") + 0.5
    teacher.module.train()(images)
    teacher.module.eval()
    return teacher


@pytest.mark.parametrize("statistics", ["batch", "image"])
def test_images_come_closer_to_the_teachers_statistics_and_to_their_classes(statistics: str) -> None:
    ctx = context(teacher=smooth_teacher())
    made = prepared(ctx, images=32, batch=32, iterations=60, statistics=statistics)

    def distance(x: Tensor) -> float:
        return float(Distiller(ZeroqOptions(statistics=statistics), ctx).loss(x, made.targets)[1]["bns"])

    assert distance(made.pool) < 0.2 * distance(torch.randn((32, 3, 8, 8), generator=torch.Generator().manual_seed(9)))
    assert (ctx.teacher.module(made.pool).argmax(1) == made.targets).float().mean() > 0.9


@pytest.mark.parametrize("clamp", [True, False])
def test_pixels_can_be_kept_inside_the_real_range(clamp: bool) -> None:
    teacher = make_teacher()
    spec = InputSpec(teacher.inputs.shape, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    pool = prepared(context(teacher=Teacher(teacher.module, spec, teacher.task)), clamp=clamp).pool
    low, high = torch.tensor([-2.5, -4 / 3, -0.75]), torch.tensor([2.5, 2.0, 1.75])
    inside = (pool.amin((0, 2, 3)) >= low - 1e-5) & (pool.amax((0, 2, 3)) <= high + 1e-5)
    assert bool(inside.all()) == clamp


# -- the pool -------------------------------------------------------------------------------------------------------------


def test_the_pool_and_its_beats() -> None:
    made = synth(images=10)
    beats = list(made.prepare(made.ctx.probe))
    assert [beat.step for beat in beats] == list(range(1, 10)) and {beat.total for beat in beats} == {9}
    assert {"loss", "bns", "ce"} <= beats[0].metrics.keys()
    assert made.pool.shape == (10, 3, 8, 8) and made.pool.is_contiguous(memory_format=torch.channels_last)
    assert made.pool.dtype == torch.float32 and not made.pool.requires_grad
    assert sorted(Counter(made.targets.tolist()).values()) == [2, 2, 3, 3], "classes are dealt evenly across batches"


def test_a_larger_pool_begins_with_the_smaller_one() -> None:
    small, large = prepared(images=8), prepared(images=16)
    assert torch.equal(small.pool, large.pool[:8]) and torch.equal(small.targets, large.targets[:8])
    assert not torch.equal(large.pool[:4], large.pool[4:8])


def test_without_a_class_term_targets_are_the_teachers_answers() -> None:
    made = prepared(class_weight=0.0)
    assert torch.equal(made.targets, made.ctx.teacher.module(made.pool).argmax(1))


def test_closed_early_only_finished_batches_count_but_one_is_always_there() -> None:
    whole = prepared()
    for beats, count in ((1, 4), (2, 4), (3, 4), (5, 4), (6, 8), (8, 8)):
        made = synth()
        work = made.prepare(made.ctx.probe)
        for _ in range(beats):
            next(work)
        work.close()
        assert len(made.pool) == len(made.targets) == count, f"after {beats} beats"
        if beats >= 3:
            assert torch.equal(made.pool, whole.pool[:count])
        assert len(made.sample(5)) == 5


def test_sizes_by_default_follow_the_size_of_images() -> None:
    teacher = make_teacher()
    large = Teacher(teacher.module, InputSpec((3, 96, 96), (0.0,) * 3, (1.0,) * 3), teacher.task)
    assert (Zeroq(ZeroqOptions(), context()).images, Zeroq(ZeroqOptions(), context()).batch) == (768, 128)
    made = Zeroq(ZeroqOptions(), context(teacher=large))
    assert (made.images, made.batch) == (64, 32)


def rows(batch: Batch) -> list[bytes]:
    return [image.contiguous().numpy().tobytes() for image in batch.inputs]


def test_samples_are_shuffled_epochs_without_repetition() -> None:
    made = prepared()
    whole = {image: int(target) for image, target in zip(rows(Batch(made.pool)), made.targets, strict=True)}
    parts = [made.sample(4) for _ in range(3)]
    epoch = [image for part in parts for image in rows(part)]
    assert sorted(epoch) == sorted(whole) and epoch != list(whole)
    assert all(whole[image] == int(t) for part in parts for image, t in zip(rows(part), part.targets, strict=True))
    made.sample(5)
    assert sorted(rows(made.sample(12))) == sorted(whole), "the whole pool, also in the middle of an epoch"
    assert all(len(set(rows(made.sample(7)))) == 7 for _ in range(10))
    assert all(count >= 2 for count in Counter(rows(made.sample(30))).values())


def test_sampling_before_prepare_is_refused() -> None:
    with pytest.raises(ZsqError, match="no images yet"):
        synth().sample(1)


# -- what is kept ---------------------------------------------------------------------------------------------------------


def everything(made: Zeroq) -> str:
    return digest([made.pool, made.targets, made.sample(5).inputs, made.sample(12).inputs])


class Forwards:
    """Counts forwards of a teacher's network."""

    def __init__(self, teacher: Teacher) -> None:
        self.count = 0
        teacher.module.register_forward_pre_hook(lambda *_: setattr(self, "count", self.count + 1))


@pytest.mark.parametrize("class_weight", [1.0, 0.0])
def test_a_later_run_makes_nothing_and_gives_the_same_bits(tmp_path: Path, class_weight: float) -> None:
    said: list[str] = []
    fresh = everything(prepared(class_weight=class_weight))
    assert everything(prepared(context(cache=tmp_path), class_weight=class_weight)) == fresh
    teacher = make_teacher()
    forwards = Forwards(teacher)
    again = prepared(context(cache=tmp_path, teacher=teacher, log=said.append), class_weight=class_weight)
    assert everything(again) == fresh and again.pool.is_contiguous(memory_format=torch.channels_last)
    assert said == ["3 of 3 batches of images from the cache"] and forwards.count == 0


def test_an_interrupted_run_goes_on_at_the_batch(tmp_path: Path) -> None:
    first = synth(context(cache=tmp_path))
    work = first.prepare(first.ctx.probe)
    for _ in range(5):
        next(work)
    work.close()
    said: list[str] = []
    teacher = make_teacher()
    forwards = Forwards(teacher)
    assert everything(prepared(context(cache=tmp_path, teacher=teacher, log=said.append))) == everything(prepared())
    assert said == ["1 of 3 batches of images from the cache"] and forwards.count == 2 * 3


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    fresh = everything(prepared(context(cache=tmp_path)))
    files = sorted((tmp_path / "pools").iterdir())
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    said: list[str] = []
    assert everything(prepared(context(cache=tmp_path, log=said.append))) == fresh
    assert said == ["1 of 3 batches of images from the cache"]


def test_more_images_make_use_of_those_there_are(tmp_path: Path) -> None:
    prepared(context(cache=tmp_path), images=8)
    said: list[str] = []
    made = prepared(context(cache=tmp_path, log=said.append), images=16)
    assert said == ["2 of 4 batches of images from the cache"] and everything(made) == everything(prepared(images=16))


CHANGES = [
    {"lr": 0.2},
    {"iterations": 4},
    {"class_weight": 0.0},
    {"spread": "std"},
    {"batch": 3},
    {"seed": 1},
    {"precision": "bf16"},
    {"mean": 0.1},
    {"weight": 1},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_nothing_is_taken_from_another_run(tmp_path: Path, change: dict[str, Any]) -> None:
    prepared(context(cache=tmp_path))
    teacher = make_teacher()
    if "weight" in change:
        teacher.module.get_submodule("conv1").weight.data[0] += 1
        teacher = make_teacher(teacher.module)
    if "mean" in change:
        spec = InputSpec(teacher.inputs.shape, (0.1,) * 3, teacher.inputs.std)
        teacher = Teacher(teacher.module, spec, teacher.task, fingerprint=teacher.fingerprint)
    said: list[str] = []
    ctx = context(seed=change.get("seed", 0), cache=tmp_path, teacher=teacher, log=said.append)
    if "precision" in change:
        precision = Precision("bf16")
        ctx = ctx.with_(precision=precision, probe=Probe(teacher, precision))
    prepared(ctx, **{k: v for k, v in change.items() if k not in ("seed", "precision", "mean", "weight")})
    assert said == []


def test_a_teacher_without_fingerprint_is_not_remembered(tmp_path: Path) -> None:
    teacher = make_teacher()
    prepared(context(cache=tmp_path, teacher=Teacher(teacher.module, teacher.inputs, teacher.task)))
    assert not (tmp_path / "pools").exists()
