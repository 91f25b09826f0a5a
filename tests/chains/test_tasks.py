"""Chains for tasks other than the default one: every synthesizer with every quantizer, calibrator and loss, two steps or a refusal.

A task is one entry in ``TASKS``: a local network whose output is that task's. Components know tasks only by what they provide.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from zsq.component import Role
from zsq.compose import compose
from zsq.errors import PlanError
from zsq.manager import Manager
from zsq.testing import tiny_recipe, tiny_run

ROOT = Path(__file__).resolve().parents[2]
MANAGER = Manager.discover()
ROLES = (Role.SYNTH, Role.QUANT, Role.CALIB, Role.LOSS)
COLUMNS = [{found.component.name: found for found in MANAGER.components(role)} for role in ROLES]
#: Task to the factory of a tiny network in ``tasks.py`` beside this file.
TASKS = {"segment": "pixels"}
Chain = tuple[str, ...]


def _sections(task: str, chain: Chain) -> dict[str, Any]:
    synth, quant, calib, loss = (column[name].component for column, name in zip(COLUMNS, chain, strict=True))
    student = any(need.startswith("student.") for need in loss.needs)
    presets = list(quant.presets)
    teacher = {"ref": f"py:{Path(__file__).parent / 'tasks.py'}:{TASKS[task]}", "task": task, "classes": 4}
    teacher |= {"shape": [3, 16, 16], "mean": [0.0] * 3, "std": [1.0] * 3}
    sections = {
        "teacher": teacher,
        "synth": synth.name,
        "quant": presets[len(presets) // 2] if presets else quant.name,
        "calib": [calib.name],
        "loss": [loss.name] if student else [loss.name, "kd"],
    }
    return sections | ({"tune": "none", "eval": []} if synth.name == "none" else {})


def _refusal(task: str, chain: Chain) -> str:
    try:
        compose(tiny_recipe(_sections(task, chain), manager=MANAGER), MANAGER)
    except PlanError as error:
        return str(error)
    return ""


def _covering(chains: list[Chain]) -> list[Chain]:
    """Chains in which every component of any of them runs with every synthesizer that it can run with."""
    missing, chosen = {(c[0], i, c[i]) for c in chains for i in (1, 2, 3)}, []
    while missing:
        chosen.append(max(chains, key=lambda c: len({(c[0], i, c[i]) for i in (1, 2, 3)} & missing)))
        missing -= {(chosen[-1][0], i, chosen[-1][i]) for i in (1, 2, 3)}
    return chosen


def _known(task: str) -> bool:
    return any(found.component.name == task for found in MANAGER.components(Role.TASK))


CHAINS = {task: {chain: _refusal(task, chain) for chain in product(*COLUMNS)} for task in TASKS if _known(task)}
COVERING = [(task, chain) for task, found in CHAINS.items() for chain in _covering([c for c, why in found.items() if not why])]


@pytest.mark.parametrize(("task", "chain"), COVERING, ids=[f"{task}-{'-'.join(chain)}" for task, chain in COVERING])
def test_composed_chain_runs(task: str, chain: Chain) -> None:
    result = tiny_run(_sections(task, chain), steps=2, manager=MANAGER)
    assert result.student.points and result.report["teacher"]["task"] == task
    if chain[0] != "none":
        assert result.report["steps"] == 2 and 0 <= result.report["student"]["metrics"]["agreement"] <= 100


@pytest.mark.parametrize("task", CHAINS)
def test_what_is_made_for_a_class_per_image_is_refused_for_that(task: str) -> None:
    for chain, why in CHAINS[task].items():
        needs = set().union(*(column[name].component.needs for column, name in zip(COLUMNS, chain, strict=True)))
        assert why or chain[0] == "none" or not needs & {"classes", "targets"}, f"{chain} composes"
        if "needs classes" in why:
            assert f"the teacher's task is '{task}'" in why and "these serve task" in why
    served = {chain[0] for chain, why in CHAINS[task].items() if not why}
    assert {"noise"} <= served and not served & {"gdfq", "qimera", "adadfq", "intraq", "lrq"}


def test_the_core_knows_no_task_by_name() -> None:
    core = ROOT / "core" / "zsq"
    for file in core.rglob("*.py"):
        if "builtin" not in file.relative_to(core).parts:
            text = file.read_text(encoding="utf-8").lower()
            assert "segment" not in text and "detect" not in text, f"{file.relative_to(ROOT)} names a task"
