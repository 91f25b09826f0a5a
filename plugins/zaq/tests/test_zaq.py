"""ZAQ's generator step: what it goes down, whom it moves, whom it leaves alone, and the game over many steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zsq_zaq import ZaqOptions
from zsq_zaq.generator import LargeGenerator, SmallGenerator, make_generator
from zsq_zaq.losses import relative_bns
from zsq_zaq.synth import Zaq

from zsq.errors import PlanError, ZsqError
from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing import teachers, tiny_run
from zsq.testing.world import Manager, Stream, compose, digest, make_batch, make_context, make_teacher, read_recipe
from zsq.training import Probe, batch_norms
from zsq.types import Batch, Context, InputSpec, Student, Teacher

BATCH = 16


def context(teacher: Teacher | None = None, seed: int = 0, student: Student | None = None) -> Context:
    return make_context(Path(), seed=seed, teacher=teacher or make_teacher(), student=student, batch_size=BATCH)


def zaq(teacher: Teacher | None = None, seed: int = 0, **options: Any) -> Zaq:
    return Zaq(ZaqOptions.parse({"channels": 8, "latent_dim": 6, **options}), context(teacher, seed))


def student_of(teacher: Teacher, bits: int = 3, top: float | None = 3.0) -> Student:
    """With activation ranges from 0 to ``top``, where it is a number."""
    student = Uniform(UniformOptions(weight_bits=bits, act_bits=bits), context(teacher)).quantize(teacher, None)
    for point in student.acts.values() if top is not None else ():
        point.set_range(0.0, top)
    return student


def players(seed: int = 0, top: float | None = 3.0, **options: Any) -> tuple[Zaq, Student, Probe, Stream]:
    teacher = make_teacher()
    synth, student = zaq(teacher, seed, **options), student_of(teacher, top=top)
    probe = Probe(teacher, synth.ctx.precision, student)
    return synth, student, probe, Stream(synth, probe, student, BATCH)


def terms(synth: Zaq, probe: Probe) -> tuple[float, dict[str, float]]:
    """Loss and terms on a fixed batch."""
    view = probe(make_batch(probe.teacher, 8), synth.needs)
    loss, named = synth.loss(view)
    return float(loss.detach()), {name: float(value.detach()) for name, value in named.items()}


# -- generators -----------------------------------------------------------------------------------------------------------


def test_parameter_counts_of_the_generators() -> None:
    """2.33 M for CIFAR as published; 25.8 M in the large one's linear layer alone."""
    with torch.device("meta"):
        small, large = (make_generator((3, side, side), 256, 128, 1e-5) for side in (32, 224))
    assert isinstance(small, SmallGenerator) and isinstance(large, LargeGenerator)
    assert sum(p.numel() for p in small.parameters()) == 2_329_091
    assert sum(p.numel() for p in large.stem.parameters()) == 25_790_464
    assert [m.out_channels for m in large.stages] == [256, 128, 64, 64]


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 30, 29), (1, 7, 9), (3, 63, 80), (3, 64, 64), (3, 65, 90)])
def test_any_size_comes_out_standardised(shape: tuple[int, ...]) -> None:
    teacher = make_teacher(shape=shape)
    synth = zaq(replace(teacher, inputs=replace(teacher.inputs, shape=shape)), channels=4)
    images = synth.sample(6).inputs
    assert tuple(images.shape) == (6, *shape) and images.dtype == torch.float32
    assert images.mean((0, 2, 3)).abs().max() < 0.2 and (images.var((0, 2, 3)) - 1).abs().max() < 0.4
    assert isinstance(synth.generator, LargeGenerator if min(shape[1:]) >= 64 else SmallGenerator)


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 64, 80)])
def test_pixels_may_be_kept_inside_the_range_of_real_ones(shape: tuple[int, ...]) -> None:
    inputs = InputSpec(shape, (0.25, 0.5, 0.75), (0.1, 0.5, 0.2))
    synth = zaq(replace(make_teacher(shape=shape), inputs=inputs), channels=4, clamp=True)
    with torch.no_grad():
        synth.generator.contrast[:, 1] = 100.0
        images = synth.sample(6).inputs
    pixels = images * torch.tensor(inputs.std).view(3, 1, 1) + torch.tensor(inputs.mean).view(3, 1, 1)
    assert tuple(pixels.shape) == (6, *shape) and pixels.min() > -1e-4 and pixels.max() < 1 + 1e-4
    assert (pixels[:, 1] < 0.01).any() and (pixels[:, 1] > 0.99).any()
    assert pixels[:, 0].std() == pytest.approx(0.28, abs=0.06) and pixels[:, 0].mean() == pytest.approx(0.5, abs=0.06)
    assert {id(synth.generator.contrast), id(synth.generator.brightness)} <= {id(p) for p in synth.parameters}


@pytest.mark.parametrize("clamp", [False, True])
def test_noise_at_every_stage_makes_images_of_one_code_differ_at_every_scale(clamp: bool) -> None:
    shape = (3, 64, 80)
    synth = zaq(replace(make_teacher(shape=shape), inputs=InputSpec(shape, (0.5,) * 3, (0.5,) * 3)), channels=4, waves=True, clamp=clamp)
    with torch.no_grad():
        (code, *stages), _ = synth.draw(2)
        (_, *others), _ = synth.draw(2)
        assert [tuple(x.shape[1:]) for x in stages] == [(16, 4, 5), (8, 8, 10), (4, 16, 20), (3, 32, 40), (3, 64, 80)]
        images = synth.generator(code, *stages)
        assert torch.equal(images, synth.generator(code, *stages))
        for stage in range(5):
            mixed = [others[i] if i == stage else x for i, x in enumerate(stages)]
            assert (synth.generator(code, *mixed) - images).abs().mean() > 0.01
    shares = [p for name, p in synth.generator.named_parameters() if "noise_weights" in name or "waves" in name]
    assert len(shares) == 12 and {id(p) for p in shares} <= {id(p) for p in synth.parameters}


def test_the_large_generator_draws_a_code_only() -> None:
    shape = (3, 64, 80)
    synth = zaq(replace(make_teacher(shape=shape), inputs=InputSpec(shape, (0.5,) * 3, (0.5,) * 3)), channels=4)
    assert len(synth.draw(2)[0]) == 1 and isinstance(synth.generator, LargeGenerator)


def test_the_large_generator_starts_small() -> None:
    generator = make_generator((3, 64, 64), 16, 16, 1e-5)
    assert all(
        float(m.weight.detach().std()) == pytest.approx(0.02, rel=0.2) for m in (generator.stem, generator.stages[0], generator.last)
    )
    assert float(generator.norms[0].weight.detach().mean()) == pytest.approx(1, abs=0.02)


def test_it_is_for_images_only() -> None:
    with pytest.raises(ZsqError, match="makes images"):
        make_generator((3, 8), 6, 8, 1e-5)


# -- the loss of the generator --------------------------------------------------------------------------------------------


def test_loss_is_minus_both_discrepancies_plus_the_negative_activity() -> None:
    synth, _, probe, _ = players(alpha=0.7, beta=0.3)
    loss, named = terms(synth, probe)
    assert named["g_output"] > 0 and named["g_features"] > 0 and named["g_activity"] < 0
    assert loss == pytest.approx(-named["g_output"] - 0.7 * named["g_features"] + 0.3 * named["g_activity"], rel=1e-5)


@pytest.mark.parametrize("norm", ["mean", "l1"])
def test_activity_is_that_of_the_teachers_last_tap(norm: str) -> None:
    synth, _, probe, _ = players(norm=norm)
    features = probe(make_batch(probe.teacher, 8), {"teacher.features"}).teacher.features
    last = features[probe.teacher.taps[-1]].abs()
    expected = last.mean() if norm == "mean" else last.sum((2, 3)).mean()
    assert terms(synth, probe)[1]["g_activity"] == pytest.approx(-float(expected), rel=1e-5)


def test_the_regulariser_drives_the_teachers_activity_up() -> None:
    """With the sign the wrong way round it would fall."""
    synth, _, probe, _ = players(beta=100.0, features="none", lr=1e-2)
    shown = [float(synth.update(probe).metrics["g_activity"]) for _ in range(20)]
    assert sum(shown[-3:]) < 1.1 * sum(shown[:3]) < 0


def test_output_discrepancy_may_be_tamed_by_a_logarithm() -> None:
    synth, _, probe, _ = players(log_output=True, features="none", beta=0)
    loss, named = terms(synth, probe)
    assert loss == pytest.approx(-float(torch.tensor(named["g_output"] + 1).log()), rel=1e-5) and list(named) == ["g_output"]


@pytest.mark.parametrize("features", ["crm", "scrm"])
def test_feature_discrepancy_is_the_loss_of_that_name(features: str) -> None:
    from zsq_zaq import CrmOptions, ScrmOptions
    from zsq_zaq.losses import Crm, Scrm

    synth, _, probe, _ = players(features=features, layer_weight="uniform", last=False)
    loss = Crm(CrmOptions(layer_weight="uniform", last=False), None) if features == "crm" else Scrm(ScrmOptions(last=False), None)
    value = loss(probe(make_batch(probe.teacher, 8), {"teacher.features", "student.features"}))
    assert terms(synth, probe)[1]["g_features"] == pytest.approx(float(value.detach()), rel=1e-5)


def test_statistics_join_only_when_asked() -> None:
    synth, _, probe, _ = players(bns_weight=2.0, features="none", beta=0)
    loss, named = terms(synth, probe)
    assert loss == pytest.approx(-named["g_output"] + 2 * named["g_bns"], rel=1e-5)
    assert "teacher.bn" not in players()[0].needs


def test_statistics_may_be_compared_in_each_channels_own_deviations() -> None:
    synth, _, probe, _ = players(bns_weight=2.0, bns_scale="relative", features="none", beta=0)
    loss, named = terms(synth, probe)
    bn = probe(make_batch(probe.teacher, 8), {"teacher.bn"}).teacher.bn
    assert named["g_bns"] == pytest.approx(float(relative_bns(bn)), rel=1e-5)
    assert loss == pytest.approx(-named["g_output"] + 2 * named["g_bns"], rel=1e-5)


# -- the warm-up ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", [True, False])
def test_the_warm_up_may_leave_the_student_alone(student: bool) -> None:
    synth, played, probe, _ = players(warmup=3, warmup_student=student, bns_weight=1.0)
    runs: list[int] = []
    played.module.register_forward_hook(lambda *_: runs.append(1))
    before = digest(synth.generator)
    metrics = [dict(beat.metrics) for beat in synth.prepare(probe)]
    assert len(metrics) == 3 and len(runs) == (3 if student else 0) and digest(synth.generator) != before
    assert ("g_output" in metrics[0]) == student and {"g_activity", "g_bns"} <= set(metrics[0])
    assert {"g_output", "g_features"} <= set(synth.update(probe).metrics) and "student.output" in synth.needs


def test_a_warm_up_has_something_to_learn() -> None:
    with pytest.raises(PlanError, match="nothing to learn"):
        zaq(warmup=3, warmup_student=False, beta=0)


# -- whom a step moves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saturated", [False, True])
def test_the_gradient_reaches_the_generator_through_the_students_grids(saturated: bool) -> None:
    """Through the student alone, the teacher's part held back: also where every activation is clamped."""
    synth, student, probe, _ = players(top=1e-3 if saturated else 3.0)
    batch = synth.generate(8)
    output = probe(batch, {"student.output"}).student.output
    gradients = torch.autograd.grad(output.abs().sum(), synth.parameters)
    assert sum(float(g.abs().sum()) for g in gradients) > 1e-3
    assert all(isinstance(point, nn.Module) for point in student.acts.values())


def test_nobody_else_gets_a_gradient() -> None:
    synth, student, probe, _ = players()
    student.module.requires_grad_(True)
    before = digest(student.module)
    weights = digest(synth.generator)
    synth.update(probe)
    assert all(p.grad is None for p in student.module.parameters()) and all(p.grad is None for p in probe.teacher.module.parameters())
    assert all(p.requires_grad for p in student.module.parameters())
    assert digest(student.module) == before and digest(synth.generator) != weights


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_students_batch_norm_is_the_tuners(training: bool) -> None:
    """In train mode the generator step moves the student's statistics too, as the authors' code does."""
    synth, student, probe, _ = players()
    for norm in batch_norms(student.module).values():
        norm.train(training)
    before = {path: norm.running_mean.clone() for path, norm in batch_norms(student.module).items()}
    synth.update(probe)
    moved = [not torch.equal(norm.running_mean, before[path]) for path, norm in batch_norms(student.module).items()]
    assert all(moved) if training else not any(moved)
    assert all(norm.training == training for norm in batch_norms(student.module).values())
    assert not any(norm.training for norm in batch_norms(probe.teacher.module).values())


def test_student_batches_carry_no_graph_into_the_generator() -> None:
    synth, student, probe, stream = players()
    student.module.requires_grad_(True)
    batch, trace = next(stream)
    assert not batch.inputs.requires_grad and trace is None
    synth.output(probe(batch, {"teacher.output", "student.output"})).backward()
    assert all(p.grad is None for p in synth.parameters)


def test_five_student_batches_for_one_generator_step_each_on_fresh_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    synth, _, _, stream = players()
    drawn: list[Tensor] = []
    events: list[str] = []
    draw, update = Zaq.draw, Zaq.update

    def drawing(self: Zaq, n: int) -> Any:
        drawn.append(draw(self, n)[0][0])
        return (drawn[-1],), None

    def updating(self: Zaq, probe: Any) -> Any:
        events.append("G")
        return update(self, probe)

    monkeypatch.setattr(Zaq, "draw", drawing)
    monkeypatch.setattr(Zaq, "update", updating)
    for _ in range(11):
        next(stream)
        events.append("Q")
    assert "".join(events) == "QQQQQGQQQQQGQ"
    assert len(drawn) == 13 and len({digest(noise) for noise in drawn}) == 13
    assert synth.steps == 2


def test_batches_are_unlabelled() -> None:
    """No class label anywhere: it goes for any task."""
    assert zaq().sample(3).targets is None


def test_the_rate_falls_at_milestones() -> None:
    synth, _, probe, _ = players(milestones=(2, 3), lr=1e-3)
    rates = []
    for _ in range(4):
        synth.update(probe)
        rates.append(synth.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])


def test_watched_ranges_are_the_extremes_of_all_generator_steps() -> None:
    """From synthetic batches only; the authors' code also lets the real test set widen them."""
    _, student, _, stream = players(top=None, watch=True)
    tops: list[list[float]] = []
    for _ in range(16):
        next(stream)
        tops.append([float(point.range[1]) for point in student.acts.values()])
    assert all(top != top for top in tops[4])  # unset before the first generator step
    assert all(top > 0 for top in tops[5]) and not any(point.observing for point in student.acts.values())
    assert all(later >= earlier for a, b in ((5, 10), (10, 15)) for earlier, later in zip(tops[a], tops[b], strict=True))
    _, student, _, stream = players()
    for _ in range(7):
        next(stream)
    assert all(float(point.range[1]) == 3.0 for point in student.acts.values())


# -- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", ["crm", "scrm"])
def test_a_teacher_without_taps_is_refused_in_words_unless_none_are_needed(features: str) -> None:
    bare = replace(make_teacher(), taps=())
    with pytest.raises(PlanError, match="no taps"):
        zaq(bare, features=features)
    with pytest.raises(PlanError, match="no taps"):
        zaq(bare, features="none")
    with pytest.raises(PlanError, match="fewer than two"):
        zaq(replace(make_teacher(), taps=("bn1",)), features=features, last=False)
    assert len(zaq(bare, features="none", beta=0).sample(2)) == 2


def test_statistics_want_batch_norm() -> None:
    plain = make_teacher(teachers.plain())
    with pytest.raises(PlanError, match="no BatchNorm"):
        zaq(plain, features="none", beta=0, bns_weight=1.0)
    assert len(zaq(plain, features="none", beta=0).sample(2)) == 2


def test_a_network_without_batch_norm_and_taps_can_be_played() -> None:
    teacher = {"ref": "py:zsq.testing.teachers:plain", "shape": [3, 8, 8], "mean": [0.0] * 3, "std": [1.0] * 3, "classes": 4}
    sections = {"teacher": teacher, "synth": {"name": "zaq", "features": "none", "beta": 0.0}, "loss": ["logit-l1"]}
    assert tiny_run(sections, steps=7).report["steps"] == 7
    with pytest.raises(PlanError, match=r"teacher\.features"):
        tiny_run({"teacher": teacher, "loss": ["logit-l1", "crm"]})


# -- the game -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", ["crm", "scrm"])
def test_disagreement_falls_over_the_students_steps_and_rises_after_the_generators(features: str) -> None:
    """Twenty rounds on a tiny network; disagreement of outputs on fixed noise, before and after each player's turn.

    The student's BatchNorm follows the batches, as published; frozen, SGD at such rates makes its weights explode.
    """
    synth, student, probe, stream = players(features=features, lr=1e-2, betas=(0.5, 0.999))
    student.module.requires_grad_(True)
    for norm in batch_norms(student.module).values():
        norm.train()
    sgd = torch.optim.SGD(student.module.parameters(), 3e-3, 0.9)
    noise = torch.randn((64, 6), generator=torch.Generator().manual_seed(1))

    def disagreement() -> float:
        with torch.no_grad():
            return float(synth.output(probe(Batch(synth.generator(noise)), {"teacher.output", "student.output"})))

    by_student, by_generator = [], []
    for _ in range(20):
        start = disagreement()
        for _ in range(5):
            batch = stream.sample(BATCH)
            sgd.zero_grad()
            synth.output(probe(batch, {"teacher.output", "student.output"})).backward()
            sgd.step()
        middle = disagreement()
        synth.update(probe)
        by_student.append(middle - start)
        by_generator.append(disagreement() - middle)
    assert sum(by_student) < -3 and sum(by_generator) > 3


def test_the_generator_alone_raises_the_disagreement() -> None:
    """With the sign the wrong way round it would fall by a third."""
    synth, _, probe, _ = players(lr=1e-2, beta=0)
    shown = [synth.update(probe).metrics for _ in range(20)]
    for term in ("g_output", "g_features"):
        values = [float(metrics[term]) for metrics in shown]
        assert sum(values[-3:]) > 1.1 * sum(values[:3])


@pytest.mark.parametrize("path", sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_compose(path: Path) -> None:
    plan = compose(read_recipe(path), Manager.discover())
    assert plan.synth.component.name == "zaq" and {loss.name for loss in plan.losses} >= {"logit-l1"}
