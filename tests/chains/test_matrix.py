"""Every synthesizer with every quantizer, calibrator and loss of what is installed: runs two steps, or is refused with the missing need.

Every combination is composed. Of those that compose, so many are run that every pair of components runs together at least once.
"""

from __future__ import annotations

from itertools import combinations, product

import pytest

from zsq._component import NEEDS, Role
from zsq._compose import compose
from zsq._manager import Manager
from zsq._plugin import Found
from zsq.errors import PlanError
from zsq.testing import tiny_recipe, tiny_run

MANAGER = Manager.discover()
ROLES = (Role.SYNTH, Role.QUANT, Role.CALIB, Role.LOSS)
COLUMNS = [{found.component.name: found for found in MANAGER.components(role)} for role in ROLES]
Chain = tuple[str, ...]


def _typed(found: Found) -> str:
    """The name to type: a quantizer's middle preset, so that presets are not multiplied; else the component itself."""
    presets = list(found.component.presets)
    return presets[len(presets) // 2] if found.role is Role.QUANT and presets else found.component.name


def _sections(chain: Chain) -> dict[str, object]:
    synth, quant, calib, loss = (column[name] for column, name in zip(COLUMNS, chain, strict=True))
    student = any(need.startswith("student.") for need in loss.component.needs)
    losses = [loss.component.name] if student else [loss.component.name, "kd"]  # a loss on the teacher alone has nothing to teach a student
    sections: dict[str, object] = {"synth": _typed(synth), "quant": _typed(quant), "calib": [calib.component.name], "loss": losses}
    return sections | ({"tune": "none", "eval": []} if chain[0] == "none" else {})  # without images nothing is tuned or compared


def _refusal(chain: Chain) -> str:
    try:
        compose(tiny_recipe(_sections(chain), manager=MANAGER), MANAGER)
    except PlanError as error:
        return str(error)
    return ""


def _pairs(chain: Chain) -> set[tuple[int, int, str, str]]:
    return {(i, j, chain[i], chain[j]) for i, j in combinations(range(len(chain)), 2)}


def _covering(chains: list[Chain]) -> list[Chain]:
    """Some of the chains, in which every pair of components that occurs in any of them occurs; chosen greedily."""
    missing, chosen = set().union(*map(_pairs, chains)), []
    while missing:
        chosen.append(max(chains, key=lambda chain: len(_pairs(chain) & missing)))
        missing -= _pairs(chosen[-1])
    return chosen


REFUSED = {chain: refusal for chain in product(*COLUMNS) if (refusal := _refusal(chain))}
COMPOSED = [chain for chain in product(*COLUMNS) if chain not in REFUSED]


@pytest.mark.parametrize("chain", _covering(COMPOSED), ids="-".join)
def test_composed_chain_runs(chain: Chain) -> None:
    result = tiny_run(_sections(chain), steps=2, manager=MANAGER)
    assert result.student.points
    if chain[0] != "none":
        assert result.report["steps"] == 2
        assert 0 <= result.report["student"]["metrics"]["agreement"] <= 100


@pytest.mark.parametrize("chain", REFUSED, ids="-".join)
def test_refused_chain_names_the_missing_need(chain: Chain) -> None:
    what = REFUSED[chain].splitlines()[0]
    declared = set().union(*(column[name].component.needs for column, name in zip(COLUMNS, chain, strict=True)))
    named = [need for need in NEEDS if f"needs {need}" in what]
    assert named and declared.issuperset(named), f"refused, but not for a need that it has: {REFUSED[chain]}"
    assert any(f"'{name}'" in what for name in (*chain, _typed(COLUMNS[1][chain[1]]))), (
        f"refused without naming a component: {REFUSED[chain]}"
    )


def test_most_combinations_run(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        total, run = len(COMPOSED) + len(REFUSED), len(_covering(COMPOSED))
        print(f"\nchains: of {total} combinations {len(COMPOSED)} compose ({run} run, covering every pair), {len(REFUSED)} are refused")
    assert len(COMPOSED) > len(REFUSED)
