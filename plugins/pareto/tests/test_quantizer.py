"""Sensitivities, costs and the student of the quantizer pareto, on tiny networks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zsq_pareto import ParetoOptions
from zsq_pareto.costs import FLOAT, layers_of, multiply_adds
from zsq_pareto.quantizer import Pareto
from zsq_pareto.sensitivity import Sensitivities

from zsq.errors import OptionError, PlanError, ZsqError
from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing.world import digest, make_batch, make_context, make_teacher
from zsq.types import Student, Teacher


def uniform(teacher: Teacher, **options: Any) -> Student:
    return Uniform(UniformOptions(**options), make_context(Path())).quantize(teacher, None)


def pareto(teacher: Teacher, folder: Path | None = None, cache: Path | None = None, **options: Any) -> Student:
    ctx = make_context(Path(), teacher=teacher).with_(workdir=folder, cache=cache)
    return Pareto(ParetoOptions(**options), ctx).quantize(teacher, make_batch(teacher, 12))


def divergence(teacher: Teacher, module: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        p, q = (m(inputs).double().log_softmax(1) for m in (teacher.module, module))
    return float((p.exp() * (p - q)).sum(1).mean())


@pytest.mark.parametrize("per_channel", [True, False])
def test_sensitivity_is_that_of_a_teacher_with_one_layer_on_its_grid(per_channel: bool) -> None:
    teacher = make_teacher()
    inputs = make_batch(teacher, 9).inputs
    work = Sensitivities(uniform(teacher, per_channel=per_channel), teacher.task, inputs)
    beats = list(work.measure((3, 8)))
    assert beats[-1].step == beats[-1].total == len(work.layers) == 4
    for bits in (3, 8):
        grids = uniform(teacher, weight_bits=bits, act_bits=None, per_channel=per_channel)
        for path, found in zip(work.layers, work.weights[bits].tolist(), strict=True):
            changed = copy.deepcopy(teacher.module)
            layer = changed.get_submodule(path)
            layer.weight.copy_(grids.weights[f"{path}.weight_point"](layer.weight))
            assert found == pytest.approx(divergence(teacher, changed, inputs), rel=2e-3, abs=1e-9)


def test_sensitivity_of_an_activation_is_that_of_a_student_with_one_range() -> None:
    teacher = make_teacher()
    inputs = make_batch(teacher, 9).inputs
    work = Sensitivities(uniform(teacher, scheme="deploy"), teacher.task, inputs)
    list(work.measure((), (4,)))
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    plain = uniform(teacher, weight_bits=16, act_bits=4, scheme="deploy")
    for path, point in plain.acts.items():
        point.register_forward_pre_hook(lambda _m, x, path=path: seen.__setitem__(path, tuple(torch.aminmax(x[0]))))
    with torch.no_grad():
        plain.module(inputs)
    for path, found in zip(work.sites, work.acts[4].tolist(), strict=True):
        student = uniform(teacher, weight_bits=16, act_bits=4, scheme="deploy")
        student.acts[path].set_range(*seen[path])
        assert found == pytest.approx(divergence(teacher, student.module, inputs), rel=2e-2, abs=1e-7)


def test_measuring_in_parts_gives_the_mean_over_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make_teacher()
    whole, parts = (Sensitivities(uniform(teacher), teacher.task, make_batch(teacher, 10).inputs) for _ in range(2))
    list(whole.measure((2,), (4,)))
    monkeypatch.setattr("zsq_pareto.sensitivity._IMAGES", 3)
    assert len(list(parts.measure((2,), (4,)))) == 4 * (4 + 3)
    torch.testing.assert_close(parts.weights[2], whole.weights[2], rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(parts.acts[4], whole.acts[4], rtol=1e-4, atol=1e-9)


def test_student_is_whole_at_every_beat() -> None:
    teacher = make_teacher()
    student = uniform(teacher)
    before = digest(student.module), dict(student.points)
    work = Sensitivities(student, teacher.task, make_batch(teacher).inputs).measure((2,), (4,))
    next(work)
    next(work)
    work.close()
    assert digest(student.module) == before[0]
    for path, point in before[1].items():
        assert student.module.get_submodule(path) is point and not point._forward_hooks


class Shared(nn.Module):
    """One convolution called twice, a transposed one, a linear layer on several rows, and a pool between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.up = nn.ConvTranspose2d(3, 4, 2, stride=2, groups=1)
        self.linear = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        x = F.relu(self.up(self.conv(x)))
        return self.linear(x.flatten(2)[..., :16]).mean(1)


def test_costs_count_every_call_and_the_grid_of_its_input() -> None:
    teacher = make_teacher(Shared().eval().requires_grad_(False))
    student = uniform(teacher, act_bits=8)
    macs = multiply_adds(student, make_batch(teacher, 2).inputs)
    layers = layers_of(student, macs)
    first, second = layers["conv"].calls
    assert (first.site, first.macs) == ("", 81 * 64)  # 8 x 8 places, the image in float
    assert second.site in student.acts and second.macs == 81 * 16  # seen through the pool, 4 x 4 places
    assert layers["up"].calls[0].macs == 48 * 16 and layers["up"].calls[0].site == ""  # the convolution's output has no ReLU
    assert layers["linear"].calls[0].macs == 64 * 4 and layers["linear"].calls[0].site in student.acts
    assert layers["conv"].params == 81 and layers["up"].params == 48
    acts = {path: point.bits for path, point in student.acts.items()}
    assert layers["conv"].operations(acts) == 81 * 64 * FLOAT + 81 * 16 * 8


@pytest.mark.parametrize("interactions", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"mean_bits": 3.3}, {"size_mb": 0.0002}, {"bops": 1.5e6}, {"bops": 1.4e6, "act_candidates": (4, 8)}]
)
def test_student_keeps_its_budget_and_says_what_it_chose(options: dict[str, Any], interactions: bool, tmp_path: Path) -> None:
    teacher = make_teacher()
    student = pareto(teacher, tmp_path, interactions=interactions, **options)
    details = json.loads(json.dumps(student.details))
    assert {path: student.weights[f"{path}.weight_point"].bits for path in details["assignment"]} == details["assignment"]
    assert {path: point.bits for path, point in student.acts.items()} == details["act_assignment"]
    told = {row["path"]: row["act_bits" if row["type"] == "activation" else "weight_bits"] for row in student.layers if row["wrapped"]}
    assert told == {**details["assignment"], **details["act_assignment"]}
    ((name, budget),) = details["budget"].items()
    assert (0 if interactions else 0.9 * budget) < details[name] <= budget
    costs, harm = zip(*details["frontier"], strict=True)
    assert list(costs) == sorted(costs) and list(harm) == sorted(harm, reverse=True)
    assert details["predicted_kl"] == pytest.approx(
        sum(details["sensitivities"][path][str(bits)] for path, bits in told.items() if path in details["sensitivities"])
    )
    for row in details["uniform"]:
        if row[name if name != "mean_bits" else "bits"] <= budget:
            kind = "joint_kl" if interactions else "predicted_kl"
            assert details[kind] <= row[kind]
    assert ("joint_kl" in details) == ("additive" in details) == interactions
    if interactions:
        paper = pareto(teacher, interactions=False, **options).details
        assert {name: details["additive"][name] for name in ("assignment", "act_assignment", "predicted_kl", "chosen")} == {
            name: paper[name] for name in ("assignment", "act_assignment", "predicted_kl", "chosen")
        }
        assert details["joint_kl"] <= details["additive"]["joint_kl"]
        assert details["frontier"] == paper["frontier"] and details["chosen"][1] >= paper["chosen"][1]
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_sizes_are_those_of_the_bits() -> None:
    details = pareto(make_teacher(), mean_bits=4).details
    params = {"conv1": 216, "block.conv2": 72, "block.conv3": 64, "linear": 32}
    bits = sum(params[path] * k for path, k in details["assignment"].items())
    assert details["size_mb"] == bits / 8 / 2**20 and details["mean_bits"] == bits / 384
    again = pareto(make_teacher(), size_mb=details["size_mb"]).details  # a size in a report, given back as a budget
    assert again["assignment"] == details["assignment"]


def test_bits_beyond_what_any_layer_needs_are_all_taken() -> None:
    assert set(pareto(make_teacher(), mean_bits=16, candidates=(2, 8)).details["assignment"].values()) == {8}


@pytest.mark.parametrize(("name", "value"), [("mean_bits", 1.0), ("size_mb", 1e-5), ("bops", 1000.0)])
def test_too_small_a_budget_names_one_that_will_do(name: str, value: float) -> None:
    with pytest.raises(ZsqError, match="the smallest student") as error:
        pareto(make_teacher(), candidates=(2, 4), **{name: value})
    setting, _, enough = error.value.hint.split(" ")[1].partition("=")
    assert setting == f"quant.{name}"
    assert set(pareto(make_teacher(), candidates=(2, 4), **{name: float(enough)}).details["assignment"].values()) == {2}


def test_another_budget_runs_no_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make_teacher()
    first = pareto(teacher, cache=tmp_path, mean_bits=4)
    runs: list[str] = []
    with monkeypatch.context() as patch:
        for place in ("sensitivity", "costs"):
            patch.setattr(f"zsq_pareto.{place}.PartialRun", lambda *_, place=place: runs.append(place))
        seen: list[int] = []
        with teacher.module.register_forward_pre_hook(lambda *_: seen.append(1)):
            uniform(teacher)
            tracing = len(seen)
            second = pareto(teacher, cache=tmp_path, mean_bits=3)
            pareto(teacher, cache=tmp_path, bops=1.5e6)
            pareto(teacher, cache=tmp_path, bops=1.5e6, candidates=(4, 2), interactions=False)
        assert not runs and len(seen) == 4 * tracing  # tracing alone
    assert second.details["sensitivities"] == first.details["sensitivities"]
    assert second.details["mean_bits"] <= 3 < first.details["mean_bits"]


@pytest.mark.parametrize("change", [{"candidates": (2, 5)}, {"images": 6}, {"per_channel": False}, {"weight_symmetric": True}])
def test_what_sensitivities_depend_on_is_measured_anew(change: dict[str, Any], tmp_path: Path) -> None:
    teacher = make_teacher()
    pareto(teacher, cache=tmp_path)
    cached = pareto(teacher, cache=tmp_path, **change).details["sensitivities"]
    assert cached == pareto(teacher, **change).details["sensitivities"]
    assert cached != pareto(teacher, cache=tmp_path).details["sensitivities"]


def test_nothing_is_drawn_or_kept_where_nothing_is_written() -> None:
    assert pareto(make_teacher(), None, None).details["points"] > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean_bits": 4, "size_mb": 1}, "2 budgets"),
        ({"act_candidates": [4, 8]}, "budget bops"),
        ({"bops": 1e6, "act_bits": None, "act_candidates": [4, 8]}, "budget bops"),
        ({"candidates": []}, "empty"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ParetoOptions.parse(options)


def test_synthesizers_without_a_pool_are_refused() -> None:
    from zsq import Recipe
    from zsq.testing.world import Manager, compose

    with pytest.raises(PlanError, match="needs pool"):
        compose(Recipe.from_dict({"zsq": 1, "synth": "noise", "quant": "pareto"}), Manager.discover())
