"""ZeroQ's images: the objective in the papers' conventions, and the authors' loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_zeroq import context, prepared, synth
from torch import Tensor, nn
from zsq_zeroq import ZeroqOptions, zsq_synthesizers
from zsq_zeroq.synth import Distiller, start

from zsq.errors import ZsqError
from zsq.images import Plateau
from zsq.testing.world import make_teacher
from zsq.training import batch_norms
from zsq.types import InputSpec, Teacher

RELEASED = next(iter(zsq_synthesizers())).presets["zeroq-released"]


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


def test_plateau_moves_the_images_less_once_the_loss_stalls() -> None:
    ctx = context()
    distiller = Distiller(ZeroqOptions(iterations=30, schedule="plateau", lr=50.0), ctx)
    distiller.patience = 1
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
