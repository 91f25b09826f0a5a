"""The golden recipes: together they use every component, each has its student on record, and a recipe gives the same student twice."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from zsq._component import Role
from zsq._compose import compose
from zsq._manager import Manager
from zsq._plan import Plan
from zsq._recipe import Recipe
from zsq.graph._recording import record

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
#: A recipe of a fraction of a second.
FAST = "evaluated"


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; its folder stays on the path, where recipes find its networks."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("golden")


@pytest.fixture(scope="session")
def manager() -> Manager:
    """Every plugin of the repository; the test is skipped where one is missing or broken."""
    found = Manager.discover()
    missing = {path.name for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").is_file()} - {"report"}
    missing -= {plugin.name for plugin in found.plugins() if plugin.status == "ok"}
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))} (make setup)")
    return found


@pytest.fixture
def plans(golden: ModuleType, manager: Manager) -> dict[str, Plan]:
    return {name: compose(Recipe.from_dict(golden.recipe(name)), manager) for name in golden.RECIPES}


@pytest.fixture
def recorded() -> dict[str, Any]:
    values: dict[str, Any] = json.loads((FOLDER / "golden.json").read_text())
    return values


def used(plan: Plan, role: Role) -> set[str]:
    """Components of a role that have a part in the student; losses only where something is tuned."""
    chosen = {
        Role.SYNTH: (plan.synth,),
        Role.QUANT: (plan.quant,),
        Role.CALIB: plan.calibrators,
        Role.LOSS: plan.losses if plan.tunes else (),
        Role.TUNE: (plan.tuner,),
    }
    return {choice.component.name for choice in chosen[role]}


@pytest.mark.parametrize("role", [Role.SYNTH, Role.QUANT, Role.CALIB, Role.LOSS, Role.TUNE])
def test_every_component_is_in_a_recipe(role: Role, plans: dict[str, Plan], manager: Manager) -> None:
    installed = {found.component.name for found in manager.components(role)}
    missing = installed - set().union(*(used(plan, role) for plan in plans.values()))
    assert not missing, f"add a short recipe to benchmarks/golden.py with: {', '.join(sorted(missing))}; then record it there"


def test_both_schemes_and_every_task_are_in_a_recipe(plans: dict[str, Plan], manager: Manager) -> None:
    options = [plan.quant.options for plan in plans.values()]
    assert {getattr(o, "scheme", None) for o in options} == {"paper", "deploy"}
    assert {(o.scheme, getattr(o, "float_input", False)) for o in options if o.scheme == "deploy"} == {
        ("deploy", True),
        ("deploy", False),
    }
    assert {plan.task.name for plan in plans.values()} == {found.component.name for found in manager.components(Role.TASK)}


def test_graphs_are_had_in_both_ways(golden: ModuleType) -> None:
    images = torch.randn((64, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    networks = golden.recorded(), golden.exported()
    assert [record(network, images[:2]) is not None for network in networks] == [True, False]
    answers = [network(images) for network in networks]
    assert torch.equal(*answers) and len(answers[0].argmax(1).unique()) > 3


def test_every_recipe_is_recorded_as_it_is(golden: ModuleType, recorded: dict[str, Any]) -> None:
    assert recorded["machine"].keys() == golden.machine().keys()
    digests = {name: golden.digest(golden.plain(golden.recipe(name))) for name in golden.RECIPES}
    assert {name: entry["recipe"] for name, entry in recorded["students"].items()} == digests, "python benchmarks/golden.py --record NAME"


def test_a_recipe_gives_the_same_student_twice(golden: ModuleType, manager: Manager) -> None:
    first, second = (golden.student(FAST, manager) for _ in range(2))
    assert first == second and first["tensors"].keys() >= {"codes", "scales", "act_ranges", "values"}


def test_what_differs_is_named(golden: ModuleType) -> None:
    old = {"recipe": "a", "network": "b", "tensors": {"codes": "c", "scales": "d", "values": "e"}}
    assert golden.differences(old, old) == []
    new = {"recipe": "a", "network": "x", "tensors": {"codes": "c", "scales": "x", "act_scales": "f"}}
    assert golden.differences(old, new) == ["network", "act_scales", "scales", "values"]


def test_another_machine_is_named(golden: ModuleType) -> None:
    here = golden.machine()
    assert golden.other_machine({**here, "python": "another"}) == ""
    assert golden.other_machine({**here, "isa": "another"}) == f"isa another there, {here['isa']} here"


@pytest.mark.parametrize(
    ("tensors", "isa", "code", "words"),
    [
        ({}, None, 0, "ok"),
        ({"codes": "other"}, None, 1, "DIFFERS: codes"),
        ({"codes": "other"}, "another", 1, "Only a recording of the same machine tells"),
    ],
)
def test_the_exit_code_says_whether_a_student_differs(
    tensors: dict[str, str],
    isa: str | None,
    code: int,
    words: str,
    golden: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = {"recipe": "a", "network": "b", "tensors": {"codes": "c"}}
    monkeypatch.setattr(golden, "student", lambda name, plugins: made)
    monkeypatch.setattr(golden.torch, "set_num_threads", lambda count: None)
    file = tmp_path / "golden.json"

    def main(*more: str) -> int:
        monkeypatch.setattr("sys.argv", ["golden.py", *more, "--against", str(file)])
        return golden.main()  # type: ignore[no-any-return]

    assert main("--record", "squant", "dfq") == 0
    recording = json.loads(file.read_text())
    assert list(recording["students"]) == ["dfq", "squant"] and recording["students"]["dfq"] == made
    recording["machine"]["isa"] = isa or recording["machine"]["isa"]
    recording["students"]["dfq"]["tensors"].update(tensors)
    file.write_text(json.dumps(recording))
    assert main("dfq") == code and words in capsys.readouterr().out
    assert main("squant") == 0
    assert main("noise-minmax") == 0 and "new" in capsys.readouterr().out


def test_a_run_that_fails_is_a_line_and_the_others_go_on(
    golden: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def student(name: str, plugins: Any) -> dict[str, Any]:
        if name == "dfq":
            raise ValueError("no\nstudent")
        return {"recipe": "a", "network": "b", "tensors": {}}

    monkeypatch.setattr(golden, "student", student)
    made, good = golden.check(["dfq", "squant"], {})
    assert list(made) == ["squant"] and not good
    assert "FAILED: ValueError: no student" in capsys.readouterr().out
