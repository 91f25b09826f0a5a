"""IntraQ: its objective against elementary operations, what a batch knows of earlier ones, the pool and what is kept of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zsq_intraq.distill
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from zsq_intraq import IntraqOptions, zsq_synthesizers
from zsq_intraq.crops import crop
from zsq_intraq.distill import IntraqDistiller
from zsq_intraq.diversity import features, intra_class_distance
from zsq_intraq.synth import Intraq

from zsq.errors import OptionError, ZsqError
from zsq.testing.world import digest, make_context, make_teacher
from zsq.training import batch_norms
from zsq.types import Context, Precision, Teacher

SMALL = {"images": 12, "batch": 4, "iterations": 3}
WHOLE = {"lor": 0.0}
PRESETS = next(iter(zsq_synthesizers())).presets


def context(seed: int = 0, cache: Path | None = None, teacher: Teacher | None = None, log: Any = None) -> Context:
    return make_context(Path(), seed=seed, teacher=teacher or make_teacher()).with_(cache=cache, log=log or (lambda message: None))


def synth(ctx: Context | None = None, **options: Any) -> Intraq:
    return Intraq(IntraqOptions.parse({**SMALL, **options}), ctx or context())


def prepared(ctx: Context | None = None, **options: Any) -> Intraq:
    made = synth(ctx, **options)
    list(made.prepare(made.ctx.probe))
    return made


def noise(n: int = 6, seed: int = 1) -> Tensor:
    return torch.randn((n, 3, 8, 8), generator=torch.Generator().manual_seed(seed))


def distiller(targets: Tensor | None = None, **options: Any) -> IntraqDistiller:
    """One that has begun a batch of ``targets``."""
    made = IntraqDistiller(IntraqOptions.parse({**SMALL, **WHOLE, **options}), context())
    made.begin(torch.arange(6) % 4 if targets is None else targets, torch.Generator().manual_seed(3))
    return made


def penultimate(x: Tensor) -> Tensor:
    """By elementary operations: the tiny teacher up to its pooling."""
    n: Any = make_teacher().module
    return F.adaptive_avg_pool2d(n.block(F.relu(n.bn1(n.conv1(x)))), 1).flatten(1)


# -- the objective --------------------------------------------------------------------------------------------------------


def test_statistics_are_of_the_batch_with_biased_variance_meant_over_channels_and_layers() -> None:
    x, targets = noise().requires_grad_(), torch.arange(6) % 4
    module: nn.Module = make_teacher().module
    terms: list[Tensor] = []

    def watch(norm: Any, inputs: Any) -> None:
        z = inputs[0]
        mean = z.mean((0, 2, 3))
        var = ((z - mean[:, None, None]) ** 2).mean((0, 2, 3))
        terms.append(((mean - norm.running_mean) ** 2).mean() + ((var - norm.running_var) ** 2).mean())

    for norm in batch_norms(module).values():
        norm.register_forward_pre_hook(watch)
    module(x)
    theirs = sum(terms) / len(terms)
    loss, metrics = distiller(sil_weight=0.0, bns_weight=2.0).loss(x, targets)
    assert float(metrics["bns"]) == pytest.approx(theirs.item(), rel=1e-5) and loss.item() == pytest.approx(2 * theirs.item(), rel=1e-5)
    assert torch.allclose(torch.autograd.grad(loss, x)[0], 2 * torch.autograd.grad(theirs, x)[0], rtol=1e-4, atol=1e-6)


def test_soft_inception_looks_at_the_probability_of_the_own_class_only() -> None:
    made, logits, targets = distiller(), torch.randn(6, 4), torch.arange(6) % 4
    p = logits.softmax(1)
    theirs = sum((p[i, targets[i]] - made.wanted[i]) ** 2 for i in range(6)) / 6
    assert float(made.inception(logits, targets)) == pytest.approx(float(theirs), rel=1e-5)


def test_half_of_the_target_probabilities_are_one_and_the_others_even_above_eps() -> None:
    wanted = distiller(torch.zeros(4000, dtype=torch.int64), eps=0.6).wanted
    assert float((wanted == 1).float().mean()) == pytest.approx(0.5, abs=0.03)
    soft = wanted[wanted < 1]
    assert float(soft.min()) >= 0.6 and float(soft.mean()) == pytest.approx(0.8, abs=0.01)
    assert bool((distiller(eps=1.0).wanted == 1).all())


def test_target_probabilities_are_drawn_once_per_image_not_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    plainly = IntraqDistiller.inception
    monkeypatch.setattr(IntraqDistiller, "inception", lambda self, *a: (seen.append(self.wanted.clone()), plainly(self, *a))[1])
    prepared(images=8)
    assert len(seen) == 6 and all(torch.equal(seen[0], other) for other in seen[1:3])
    assert not torch.equal(seen[0], seen[3])


def centred(images: Tensor, labels: Tensor, **options: Any) -> IntraqDistiller:
    made = distiller(**options)
    made.remember([(images, labels)])
    return made


def test_margins_are_of_the_cosine_distance_to_the_mean_feature_of_the_class() -> None:
    """Classes 0 to 2 have a centre, class 3 has none and does not count."""
    images, labels = noise(9, 2), torch.arange(9) % 3
    x, targets = noise().requires_grad_(), torch.tensor([0, 1, 2, 3, 3, 0])
    known, own = penultimate(images), penultimate(x)
    total, count, apart = torch.zeros(()), 0, 0.0
    for feature, label in zip(own, targets.tolist(), strict=True):
        if label == 3:
            continue
        centre = known[labels == label].mean(0)
        d = 1 - feature @ centre / (feature.norm() * centre.norm())
        total = total + torch.clamp(0.02 - d, min=0) + torch.clamp(d - 0.04, min=0)
        count, apart = count + 1, apart + d.item()
    made = centred(images, labels, lambda_l=0.02, lambda_u=0.04, bns_weight=0.0, sil_weight=0.0)
    loss, metrics = made.loss(x, targets)
    assert count == 4 and total.item() > 0
    assert loss.item() == pytest.approx(total.item() / 4, rel=1e-4) and float(metrics["apart"]) == pytest.approx(apart / 4, rel=1e-4)
    assert torch.allclose(torch.autograd.grad(loss, x)[0], torch.autograd.grad(total / 4, x)[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("cosine", "expected"), [(1.0, 0.05), (0.9, 0.0), (0.3, 0.0), (0.1, 0.1), (-1.0, 1.2)])
def test_distance_is_one_less_cosine_not_cosine(cosine: float, expected: float) -> None:
    """Equal directions are too close for the lower margin, opposite ones far beyond the upper one."""
    made = distiller(lambda_l=0.05, lambda_u=0.8)
    made.remembered, made._sums, made._counts = 1, torch.tensor([[2.0, 0.0]] * 4), torch.ones(4)
    feature = torch.tensor([[cosine, (1 - cosine**2) ** 0.5]]) * 3
    mdc, apart = made.margins(feature, torch.tensor([0]))
    assert float(mdc) == pytest.approx(expected, abs=1e-6) and float(apart) == pytest.approx(1 - cosine, abs=1e-6)


def test_the_lower_margin_drives_images_away_from_their_centre_and_the_upper_one_back() -> None:
    def apart(**options: Any) -> float:
        images = torch.cat([noise(8, 5) + 0.5 * i for i in range(2)])
        made = centred(images, torch.arange(16) % 4, bns_weight=0.0, sil_weight=0.0, **options)
        x, targets = noise(6, 4).requires_grad_(), torch.arange(6) % 4
        made.begin(targets, torch.Generator().manual_seed(0))
        *_, (_, metrics) = made.make(x, targets)
        return float(metrics["apart"])

    free = apart(lambda_l=0.0, lambda_u=2.0, iterations=1)
    assert apart(lambda_l=1.0, lambda_u=2.0, iterations=20) > 1.5 * free
    assert apart(lambda_l=0.0, lambda_u=0.0, iterations=20) < 0.7 * free


def test_images_without_any_centre_have_no_margins_and_stay_finite() -> None:
    made = centred(noise(3, 2), torch.zeros(3, dtype=torch.int64))
    x = noise().requires_grad_()
    loss, metrics = made.loss(x, torch.full((6,), 2))
    assert float(metrics["mdc"]) == 0 and bool(torch.isfinite(torch.autograd.grad(loss, x)[0]).all())


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_hard_images_weigh_more_also_in_the_gradient(gamma: float) -> None:
    made, targets = distiller(gamma=gamma), torch.arange(6) % 4
    logits = torch.randn((6, 4), generator=torch.Generator().manual_seed(0)).requires_grad_()
    p = logits.softmax(1)[torch.arange(6), targets]
    theirs = ((1 - p) ** gamma * -p.log()).mean()
    ours = made.hard(logits, targets)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert torch.allclose(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)), atol=1e-6)
    certain = torch.tensor([[200.0, 0, 0, 0]] * 6).requires_grad_()
    made.hard(certain, torch.zeros(6, dtype=torch.int64)).backward()
    assert bool(torch.isfinite(certain.grad).all())


# -- crops ----------------------------------------------------------------------------------------------------------------


def crops_of(monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[tuple[int, Any]]:
    """(images, boxes) of every crop while a batch is made."""
    calls: list[tuple[int, Any]] = []
    monkeypatch.setattr(zsq_intraq.distill, "crop", lambda x, boxes: (calls.append((len(x), boxes)), crop(x, boxes))[1])
    prepared(images=4, batch=4, **options)
    return calls


def test_the_coin_is_tossed_for_a_whole_batch_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = crops_of(monkeypatch, iterations=200)
    assert 70 < len(calls) < 130 and {n for n, _ in calls} == {4}
    boxes = calls[0][1]
    assert len(torch.stack([boxes.top, boxes.left, boxes.height, boxes.width], 1).unique(dim=0)) > 1, "but each image has its own box"
    assert not torch.equal(boxes.height * boxes.width, calls[1][1].height * calls[1][1].width)


@pytest.mark.parametrize(("lor", "count"), [(0.0, 0), (1.0, 5)])
def test_never_and_always(monkeypatch: pytest.MonkeyPatch, lor: float, count: int) -> None:
    assert len(crops_of(monkeypatch, iterations=5, lor=lor)) == count


def test_crops_keep_at_least_eta_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for eta, least in ((1.0, 64), (0.2, 9)):
        areas = torch.cat([boxes.height * boxes.width for _, boxes in crops_of(monkeypatch, iterations=40, lor=1.0, eta=eta)])
        assert areas.min() >= least and (eta == 1 or areas.min() < 24)


def test_a_step_reads_nothing_back_but_the_coin() -> None:
    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += "_local_scalar_dense" in str(function) or "nonzero" in str(function)
            return function(*args, **(kwargs or {}))

    made, x = centred(noise(8, 2), torch.arange(8) % 4, lor=1.0, hil_weight=1.0, schedule="plateau"), noise().requires_grad_()
    targets = torch.arange(6) % 4
    with Reads() as reads:
        loss, _ = made.loss(x, targets)
        loss.backward(inputs=[x])
    assert reads.count == 1


# -- what a batch knows of earlier ones -----------------------------------------------------------------------------------


def watch_centres(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Intraq, list[tuple[Tensor, Tensor] | None], list[bool]]:
    """Centres (sums, counts) at every step, and whether it had margins."""
    seen: list[tuple[Tensor, Tensor] | None] = []
    plainly = IntraqDistiller.loss

    def watched(self: IntraqDistiller, *arguments: Any) -> Any:
        seen.append((self._sums.clone(), self._counts.clone()) if self.remembered else None)
        return plainly(self, *arguments)

    monkeypatch.setattr(IntraqDistiller, "loss", watched)
    made = synth(**options)
    margins = ["mdc" in beat.metrics for beat in made.prepare(made.ctx.probe)]
    return made, seen, margins


def test_centres_are_of_finished_batches_only_and_the_first_batch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen, margins = watch_centres(monkeypatch)
    assert margins == [False] * 3 + [True] * 6 and seen[:3] == [None] * 3
    for batch in (1, 2):
        images, labels = made.pool[: 4 * batch], made.targets[: 4 * batch]
        sums = torch.stack([penultimate(images)[labels == label].sum(0) for label in range(4)])
        for step in seen[3 * batch : 3 * batch + 3]:
            assert torch.allclose(step[0], sums, rtol=1e-4, atol=1e-5) and torch.equal(step[1], torch.full((4,), float(batch)))


def test_centres_may_stand_still_for_a_group_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    _, seen, margins = watch_centres(monkeypatch, images=20, group=2)
    assert margins == [False] * 6 + [True] * 9
    assert [float(step[1][0]) for step in seen[6:]] == [2.0] * 6 + [4.0] * 3


def test_without_margins_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make_teacher()
    teacher = Teacher(teacher.module, teacher.inputs, teacher.task)  # of which no last layer is known
    made = prepared(context(teacher=teacher), mdc_weight=0.0)
    assert len(made.pool) == 12
    with pytest.raises(ZsqError, match="last layer"):
        prepared(context(teacher=teacher))


# -- the pool -------------------------------------------------------------------------------------------------------------


def everything(made: Intraq) -> str:
    return digest([made.pool, made.targets, made.sample(5).inputs, made.sample(12).inputs])


def test_a_larger_pool_begins_with_the_smaller_one() -> None:
    small, large = prepared(images=8, labels="random"), prepared(images=16, labels="random")
    assert torch.equal(small.pool, large.pool[:8]) and torch.equal(small.targets, large.targets[:8])
    assert not torch.equal(large.pool[:4], large.pool[4:8])


def test_classes_are_dealt_evenly_or_drawn() -> None:
    even, random = prepared(images=16, iterations=1), prepared(images=64, batch=64, iterations=1, labels="random")
    assert set(Counter(even.targets.tolist()).values()) == {4}
    assert set(random.targets.tolist()) == {0, 1, 2, 3} and len(set(Counter(random.targets.tolist()).values())) > 1


def test_a_later_run_makes_nothing_and_gives_the_same_bits(tmp_path: Path) -> None:
    said: list[str] = []
    fresh = everything(prepared(context(cache=tmp_path)))
    teacher, forwards = make_teacher(), []
    teacher.module.register_forward_pre_hook(lambda *_: forwards.append(1))
    assert everything(prepared(context(cache=tmp_path, teacher=teacher, log=said.append))) == fresh
    assert said == ["3 of 3 batches of images from the cache"] and not forwards


def test_an_interrupted_run_goes_on_with_the_centres_it_had(tmp_path: Path) -> None:
    first = synth(context(cache=tmp_path))
    work = first.prepare(first.ctx.probe)
    for _ in range(7):
        next(work)
    work.close()
    assert len(first.pool) == 8 and len(first.sample(3)) == 3
    assert everything(prepared(context(cache=tmp_path))) == everything(prepared())


@pytest.mark.parametrize(
    "change", [{"lambda_l": 0.1}, {"batch": 3}, {"group": 2}, {"lor": 0.1}, {"seed": 1}, {"precision": "bf16"}], ids=str
)
def test_nothing_is_taken_from_another_run(tmp_path: Path, change: dict[str, Any]) -> None:
    prepared(context(cache=tmp_path))
    said: list[str] = []
    ctx = context(seed=change.get("seed", 0), cache=tmp_path, log=said.append)
    if "precision" in change:
        ctx = ctx.with_(precision=Precision("bf16"))
    prepared(ctx, **{k: v for k, v in change.items() if k not in ("seed", "precision")})
    assert said == []


@pytest.mark.parametrize("change", [{"augment": False}, {"least": 0.9}, {"images": 8}], ids=str)
def test_how_images_are_handed_out_does_not_make_them_others(tmp_path: Path, change: dict[str, Any]) -> None:
    prepared(context(cache=tmp_path))
    said: list[str] = []
    prepared(context(cache=tmp_path, log=said.append), **change)
    assert len(said) == 1


def test_the_whole_pool_is_handed_out_as_it_is_and_batches_as_crops() -> None:
    made = prepared()
    rows = {image.contiguous().numpy().tobytes(): int(target) for image, target in zip(made.pool, made.targets, strict=True)}

    def known(n: int, source: Intraq = made) -> list[bool]:
        batch = source.sample(n)
        assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
        return [image.contiguous().numpy().tobytes() in rows for image in batch.inputs]

    assert all(known(12)) and all(known(20)) and not any(known(5)) and all(known(5, prepared(augment=False)))
    batch = made.sample(12)
    assert [rows[image.contiguous().numpy().tobytes()] for image in batch.inputs] == batch.targets.tolist()


def test_another_class_of_distiller_may_take_another_distance() -> None:
    class Far(IntraqDistiller):
        def distance(self, cosine: Tensor) -> Tensor:
            return 1 - cosine + 1

    class Other(Intraq):
        name, distiller_class = "other", Far

    made = Other(IntraqOptions.parse(SMALL), context())
    apart = [float(beat.metrics["apart"]) for beat in made.prepare(made.ctx.probe) if "apart" in beat.metrics]
    assert len(apart) == 6 and min(apart) >= 1


# -- diversity and presets ------------------------------------------------------------------------------------------------


def test_intra_class_distance() -> None:
    targets = torch.tensor([0, 0, 1, 1, 2])
    angle = torch.tensor([0.0, 90.0, 10.0, 10.0, 45.0]).deg2rad()
    points = torch.stack([angle.cos(), angle.sin()], 1)
    expected = (2 * (1 - 0.5**0.5) + 0) / 4  # the last image is alone in its class
    assert float(intra_class_distance(points, targets)) == pytest.approx(expected, abs=1e-6)
    assert float(intra_class_distance(points * 7, targets)) == pytest.approx(expected, abs=1e-6)


def test_features_are_what_enters_the_last_layer() -> None:
    found = features(make_teacher(), noise(7), Precision("fp32"), batch=3)
    assert torch.allclose(found, penultimate(noise(7)), atol=1e-5)


def test_margins_make_images_of_a_class_differ_more() -> None:
    ctx = context()
    spread = []
    for lower in (0.0, 0.5):
        made = prepared(ctx, images=32, batch=16, iterations=30, lambda_l=lower, lambda_u=2.0, bns_weight=0.1)
        spread.append(float(intra_class_distance(features(ctx.teacher, made.pool, ctx.precision), made.targets)))
    assert spread[1] > 1.2 * spread[0]


def test_presets_hold_the_sheets_values() -> None:
    paper = IntraqOptions.parse(PRESETS["intraq-paper"])
    assert (paper.images, paper.batch, paper.iterations, paper.lr, paper.schedule) == (5120, 256, 1000, 0.5, "plateau")
    assert (paper.lor, paper.eta, paper.eps, paper.lambda_l, paper.lambda_u, paper.labels) == (0.5, 0.5, 0.95, 0.05, 0.8, "random")
    assert (
        paper.bns_weight == paper.mdc_weight == paper.sil_weight == 1
        and paper.hil_weight == 0
        and IntraqDistiller(paper, context()).patience == 50
    )
    released = IntraqOptions.parse(PRESETS["intraq-released-imagenet"])
    assert released.mdc_weight == 0 and released.eps == 1 and released.lor == 0.5
    hast = IntraqOptions.parse(PRESETS["hast"])
    assert (hast.hil_weight, hast.gamma, hast.lor, hast.mdc_weight, hast.sil_weight) == (10, 2, 0, 0, 0)


def test_margins_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(OptionError, match="lambda_l"):
        IntraqOptions(lambda_l=0.9, lambda_u=0.8)
