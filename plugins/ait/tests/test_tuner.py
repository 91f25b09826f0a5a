"""The tuner: which parameters it inundates, the schedule of ``lr`` and ``rho``, and its chains and recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from zsq_ait import PAPER_SCHEDULE, AitOptions
from zsq_ait.codes import Codes
from zsq_ait.inundation import Inundation
from zsq_ait.tuner import Ait

from zsq import Recipe
from zsq.grids import WeightPoint
from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing import tiny_run
from zsq.testing.world import (
    Manager,
    Objective,
    StagedNoise,
    Term,
    compose,
    digest,
    make_component,
    make_context,
    make_stream,
    make_teacher,
    read_recipe,
)
from zsq.types import Beat, Student, Teacher

RECIPES = Path(__file__).parents[1] / "recipes"
BOTH = frozenset({"teacher.output", "student.output"})


def setup(bits: int = 4) -> tuple[Teacher, Student]:
    teacher = make_teacher()
    student = Uniform(UniformOptions(weight_bits=bits, act_bits=bits), make_context(Path(), teacher=teacher)).quantize(teacher, None)
    for point in student.acts.values():
        point.set_range(0.0, 4.0)
    return teacher, student


def kd() -> Objective:
    return Objective([Term("kd", make_component("loss", "kd", temperature=20.0, reduction="mean"), needs=BOTH)])


def fitting(teacher: Teacher, student: Student, objective: Any = None, **options: Any) -> Any:
    objective = objective or kd()
    ctx = make_context(Path(), teacher=teacher, student=student, objective=objective)
    return Ait(AitOptions(**options), ctx).fit(student, make_stream(teacher, student, StagedNoise(teacher)), objective)


def codes_of(student: Student) -> dict[str, Tensor]:
    return {path: point.codes.clone() for path, point in student.weights.items()}  # type: ignore[attr-defined]


def shares(student: Student, work: Any) -> list[dict[str, float]]:
    """Share of each layer's codes that every step changed."""
    found, before = [], codes_of(student)
    for _ in work:
        after = codes_of(student)
        found.append({path: float((after[path] != before[path]).double().mean()) for path in after})
        before = after
    return found


def test_every_layer_changes_its_share_of_codes() -> None:
    teacher, student = setup()
    for step in shares(student, fitting(teacher, student, steps=3, lr=1e-6, rho=0.02, schedule="constant", doublings=30)):
        assert all(share >= 0.02 for share in step.values())


def test_share_falls_with_the_rate() -> None:
    teacher, student = setup()
    options = {"steps": 4, "lr": 1e-6, "rho": 0.2, "schedule": "step", "milestones": (2,), "gamma": 0.1, "doublings": 30, "range_lr": 0.0}
    largest = max((point.codes.numel(), path) for path, point in student.weights.items())[1]  # type: ignore[attr-defined]
    found = [step[largest] for step in shares(student, fitting(teacher, student, **options))]
    assert min(found[:2]) >= 0.2 and 0.02 <= min(found[2:]) <= max(found[2:]) < 0.2


def test_cosine_ends_near_zero() -> None:
    teacher, student = setup()
    found = [max(step.values()) for step in shares(student, fitting(teacher, student, steps=12, lr=1e-6, rho=0.3, doublings=30))]
    assert found[-1] < 0.1 < found[0]


def test_batch_norm_and_biases_move_by_plain_sgd() -> None:
    """They move as with PyTorch's SGD with Nesterov momentum, for any factor of the weights in the same layer."""
    teacher, student = setup()
    weights = {id(point._weight[0]) for point in student.weights.values()}  # type: ignore[attr-defined]
    rest = {name: p for name, p in student.module.named_parameters() if id(p) not in weights}
    assert any("bias" in name for name in rest) and any("bn" in name for name in rest)
    before, copies = {name: p.detach().clone() for name, p in rest.items()}, []
    step = torch.optim.SGD.step

    def keep(self: Any, closure: Any = None) -> Any:
        copies.append({name: p.grad.clone() for name, p in rest.items()})
        return step(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", keep)
        kappa = [float(beat.metrics["kappa"]) for beat in fitting(teacher, student, steps=2, lr=1e-3, rho=0.05, schedule="constant")]
    assert min(kappa) > 2
    for name, parameter in rest.items():
        first, second = copies[0][name], copies[1][name]
        expected = before[name] - 1e-3 * (1.9 * first) - 1e-3 * (second + 0.9 * (0.9 * first + second))
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-8)


def test_without_gradient_nothing_moves() -> None:
    """No weight decay on anything."""
    teacher, student = setup()
    before = digest(student.module)
    nothing = Objective([Term("nothing", lambda view: 0.0 * view.student.output.sum(), needs=BOTH)])
    assert len(list(fitting(teacher, student, nothing, steps=2, lr=1.0))) == 2
    assert digest(student.module) == before


def test_final_weights_stay_and_set_ranges_are_kept() -> None:
    teacher, student = setup()
    frozen, ranged, *_ = student.weights.values()
    frozen.freeze()  # type: ignore[attr-defined]
    ranged.set_range(*ranged.range)
    before, codes = [end.clone() for end in ranged.range], codes_of(student)
    list(fitting(teacher, student, steps=2, lr=1e-6, rho=0.05, doublings=30))
    assert all(map(torch.equal, ranged.range, before))
    assert torch.equal(frozen.codes, next(iter(codes.values())))  # type: ignore[attr-defined]
    assert not torch.equal(ranged.codes, list(codes.values())[1])  # type: ignore[attr-defined]


@pytest.mark.parametrize(("range_lr", "moves"), [(0.0, False), (0.05, True)])
def test_activation_ranges_are_learned_on_request(range_lr: float, moves: bool) -> None:
    teacher, student = setup()
    list(fitting(teacher, student, steps=2, range_lr=range_lr))
    assert all((float(point.range[1]) != 4.0) == moves for point in student.acts.values())


def test_closed_early_it_keeps_what_was_learned() -> None:
    teacher, student = setup()
    before, work = codes_of(student), fitting(teacher, student, steps=5, rho=0.05)
    beat: Beat = next(work)
    work.close()
    assert beat.step == 1 and any(not torch.equal(before[path], after) for path, after in codes_of(student).items())
    assert all(p.grad is None and not p.requires_grad for p in student.module.parameters())


class Looks(TorchDispatchMode):
    """Counts how often a number is read from a tensor: on a GPU, each read synchronizes."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._opname in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
        return func(*args, **(kwargs or {}))


def test_where_looking_stalls_there_is_none_and_the_outcome_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the number of probes is always the largest possible."""
    outcomes = []
    for free in (True, False):
        rng = torch.Generator().manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(8, 18, generator=rng)) for _ in range(3)]
        inundation = Inundation([(w, WeightPoint(w, 4, False, 0)) for w in weights], AitOptions(lr=1e-5, rho=0.02, warm=False))
        monkeypatch.setattr(inundation.codes, "free_looks", free)
        for step in range(3):
            for weight, scale in zip(weights, (1e-3, 0.0, 1.0), strict=True):
                weight.grad = scale * torch.randn(weight.shape, generator=rng)
            with Looks() as looks:
                inundation.step()
            assert free or looks.count == 0, f"{looks.count} looks in step {step}"
        outcomes.append(digest([*weights, inundation.kappa]))
    assert outcomes[0] == outcomes[1]


# -- chains and recipes ---------------------------------------------------------------------------------------------------


def test_its_loss_is_the_divergence_alone() -> None:
    plan = compose(Recipe.from_dict({"zsq": 1, "synth": "noise", "quant": "uniform4", "tune": "ait"}), Manager.discover())
    (loss,) = plan.losses
    assert loss.name == "kd" and (loss.options.temperature, loss.options.reduction) == (20.0, "mean")  # type: ignore[attr-defined]


def test_the_generator_keeps_its_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    fit = Ait.fit

    def watching(self: Any, *inputs: Any) -> Any:
        for beat in fit(self, *inputs):
            shown.append(beat.metrics)
            yield beat

    monkeypatch.setattr(Ait, "fit", watching)
    tiny_run({"synth": "gdfq", "loss": ["kd"], "tune": "ait"})
    assert len(shown) == 2 and all({"g_ce", "g_bns", "kd"} <= metrics.keys() and "ce" not in metrics for metrics in shown)


@pytest.mark.parametrize("quant", ["uniform4", "squant4"])
def test_with_grids_that_follow_the_weights_and_grids_that_stay(quant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flips = Codes.flips
    fixed: list[bool] = []

    def watching(self: Codes, *inputs: Any) -> Tensor:
        fixed.extend(group.fixed is not None for _, group in self._groups)
        return flips(self, *inputs)

    monkeypatch.setattr(Codes, "flips", watching)
    assert tiny_run({"quant": quant, "calib": ["minmax"], "loss": ["kd"], "tune": "ait"}).report["steps"] == 2
    assert set(fixed) == {quant == "squant4"}


def test_authors_settings() -> None:
    """Learning rate 1e-4, also for ImageNet, where rho is 1e-4; momentum 0.9, five bisections, tolerance 0.01."""
    cifar, released = AitOptions.parse(PAPER_SCHEDULE), AitOptions.parse({**PAPER_SCHEDULE, "released": True})
    assert (cifar.lr, cifar.rho, cifar.momentum, cifar.rounds, cifar.tolerance, cifar.gamma) == (1e-4, 1e-3, 0.9, 5, 0.01, 0.1)
    assert released.released and not cifar.released
    recipe = read_recipe(RECIPES / "gdfq-imagenet-resnet18-w4a4.yaml")
    assert recipe.tune is not None and (recipe.tune["lr"], recipe.tune["rho"]) == (1e-4, 1e-4)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_compose_and_teach_by_the_divergence_alone(path: Path) -> None:
    plan = compose(read_recipe(path), Manager.discover())
    assert plan.tuner.component.name == "ait" and [loss.name for loss in plan.losses] == ["kd"]
    assert plan.tuner.options.released is False  # type: ignore[attr-defined]
