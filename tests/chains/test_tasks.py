"""Chains for every task: every synthesizer with every quantizer, calibrator, loss, tuner and exporter, two steps or a refusal.

A task is one entry in ``TASKS``: a local network whose output is that task's. Components know tasks only by what they provide.
Every combination of a synthesizer, a quantizer and one more component is composed. Of what composes, so many chains are run that
every component runs with every synthesizer that it can run with; calibrators and losses several at a time.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from zsq._component import Role
from zsq._compose import compose
from zsq._manager import Manager
from zsq.errors import PlanError
from zsq.testing import tiny_recipe, tiny_run

ROOT = Path(__file__).resolve().parents[2]
MANAGER = Manager.discover()
ROLES = (Role.QUANT, Role.CALIB, Role.LOSS, Role.TUNE, Role.EXPORT)
COLUMNS = {role: {found.component.name: found.component for found in MANAGER.components(role)} for role in (Role.SYNTH, *ROLES)}
#: What stands in a role that is not looked at.
USUAL = {role: (name,) for role, name in zip(ROLES, ("uniform", "minmax", "kd", "finetune", "safetensors"), strict=True)}
#: Task to the factory of a tiny network in ``tasks.py`` beside this file, and the roles looked at: ``test_matrix.py`` has the others.
TASKS = {"classify": ("classes", (Role.TUNE, Role.EXPORT)), "segment": ("pixels", ROLES), "detect": ("boxes", ROLES)}
#: Components of a role that run together.
TOGETHER = {Role.CALIB: 3, Role.LOSS: 3}
Chain = dict[Role, tuple[str, ...]]


def _chains(task: str) -> list[Chain]:
    """Every synthesizer and quantizer with every other component."""
    roles = [role for role in TASKS[task][1] if role is not Role.QUANT]
    some = list(product(COLUMNS[Role.SYNTH], COLUMNS[Role.QUANT], ((role, name) for role in roles for name in COLUMNS[role])))
    return [_possible({**USUAL, Role.SYNTH: (synth,), Role.QUANT: (quant,), role: (name,)}) for synth, quant, (role, name) in some]


def _possible(chain: Chain) -> Chain:
    """Without images the usual tuner and calibrator cannot work: others stand for them."""
    if chain[Role.SYNTH] != ("none",):
        return chain
    others = {Role.TUNE: ("none",), Role.CALIB: ("bn-range",)}
    return chain | {role: other for role, other in others.items() if chain[role] == USUAL[role]}


def _sections(task: str, chain: Chain) -> dict[str, Any]:
    presets = list(COLUMNS[Role.QUANT][chain[Role.QUANT][0]].presets)
    student = any(need.startswith("student.") for name in chain[Role.LOSS] for need in COLUMNS[Role.LOSS][name].needs)
    teacher = {"ref": f"py:{Path(__file__).parent / 'tasks.py'}:{TASKS[task][0]}", "task": task, "classes": 4}
    sections = {
        "teacher": teacher | {"shape": [3, 16, 16], "mean": [0.0] * 3, "std": [1.0] * 3},
        "synth": chain[Role.SYNTH][0],
        "quant": presets[len(presets) // 2] if presets else chain[Role.QUANT][0],
        "calib": [*chain[Role.CALIB]],
        "loss": [*chain[Role.LOSS], *(() if student else ("kd",))],
        "tune": chain[Role.TUNE][0],
        "export": [*chain[Role.EXPORT]],
    }
    return sections | ({"eval": []} if chain[Role.SYNTH] == ("none",) else {})


def _refusal(task: str, chain: Chain) -> str:
    try:
        compose(tiny_recipe(_sections(task, chain), manager=MANAGER), MANAGER)
    except PlanError as error:
        return str(error)
    return ""


def _merged(task: str, found: list[Chain]) -> list[Chain]:
    """Chains in which every component of these runs with its synthesizer: the first ones of all roles together, then the second..."""
    chosen = []
    for synth in dict.fromkeys(chain[Role.SYNTH] for chain in found):
        mine = [chain for chain in found if chain[Role.SYNTH] == synth]
        columns: dict[Role, list[tuple[str, ...]]] = {}
        used: Counter[tuple[str, ...]] = Counter()
        for role in (Role.QUANT, *(role for role in TASKS[task][1] if role is not Role.QUANT)):
            names = list(dict.fromkeys(chain[role][0] for chain in mine))
            names.sort(key=lambda name: "weights.live" not in COLUMNS[role][name].needs)  # these come before ranges are set
            step = TOGETHER.get(role, 1)
            columns[role] = [tuple(names[i : i + step]) for i in range(0, len(names), step)]
        for i in range(max(map(len, columns.values()))):
            chain = mine[0] | {role: groups[i % len(groups)] for role, groups in columns.items()}
            seldom = sorted(columns[Role.QUANT], key=lambda group: used[group])
            chosen.append(next(some for group in seldom if not _refusal(task, some := chain | {Role.QUANT: group})))
            used[chosen[-1][Role.QUANT]] += 1
    return chosen


KNOWN = {found.component.name for found in MANAGER.components(Role.TASK)}
CHAINS = {task: [(chain, _refusal(task, chain)) for chain in _chains(task)] for task in TASKS if task in KNOWN}
RUN = [(task, chain) for task, found in CHAINS.items() for chain in _merged(task, [chain for chain, why in found if not why])]


@pytest.mark.parametrize(("task", "chain"), RUN, ids=[f"{task}-{'-'.join(map('+'.join, chain.values()))}" for task, chain in RUN])
def test_composed_chain_runs(task: str, chain: Chain, tmp_path: Path) -> None:
    result = tiny_run(_sections(task, chain), steps=2, manager=MANAGER, folder=tmp_path / "run")
    assert result.student.points and result.report["teacher"]["task"] == task
    if chain[Role.SYNTH] != ("none",):
        assert result.report["steps"] == (0 if chain[Role.TUNE] == ("none",) else 2)
        assert 0 <= result.report["student"]["metrics"]["agreement"] <= 100
    assert any(file.name.startswith("model.") for file in (tmp_path / "run").iterdir())


@pytest.mark.parametrize("task", [task for task in CHAINS if task != "classify"])
def test_what_is_made_for_a_class_per_image_is_refused_for_that(task: str) -> None:
    for chain, why in CHAINS[task]:
        needs = set().union(*(COLUMNS[role][name].needs for role, names in chain.items() for name in names))
        assert why or chain[Role.TUNE] == ("none",) or not needs & {"classes", "targets"}, f"{chain} composes"
        if "needs classes" in why:
            assert f"the teacher's task is '{task}'" in why and "these work with task" in why
    served = {chain[Role.SYNTH][0] for chain, why in CHAINS[task] if not why}
    assert {"noise", "none"} <= served and not served & {"gdfq", "qimera", "adadfq", "intraq", "lrq"}


@pytest.mark.parametrize("task", CHAINS)
def test_every_refusal_has_a_reason_and_every_component_a_place(task: str) -> None:
    assert all(" needs " in why for _, why in CHAINS[task] if why)
    for role in (Role.QUANT, *TASKS[task][1]):
        found = {chain[role][0] for chain, why in CHAINS[task] if not why}
        unserved = {name for name, component in COLUMNS[role].items() if component.needs & {"classes", "targets"}}
        assert COLUMNS[role].keys() - found <= (set() if task == "classify" else unserved), f"{role.value}: some never run"


def test_the_core_knows_no_task_by_name() -> None:
    core = ROOT / "core" / "zsq"
    files = [file for file in core.rglob("*.py") if "_builtin" not in file.relative_to(core).parts]
    assert core / "_manager.py" in files
    for file in files:
        text = file.read_text(encoding="utf-8").lower()
        assert "segment" not in text and "detect" not in text, f"{file.relative_to(ROOT)} names a task"
