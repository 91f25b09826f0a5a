"""Every synthesizer with every quantizer, calibrator and loss of what is installed: runs two steps, or is refused with the missing need."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from zsq.component import NEEDS, Role
from zsq.errors import PlanError
from zsq.manager import Found, Manager
from zsq.testing import tiny_run

MANAGER = Manager.discover()
ROLES = (Role.SYNTH, Role.QUANT, Role.CALIB, Role.LOSS)
Chain = tuple[str, ...]


def _names(role: Role) -> list[str]:
    """One name per component: presets are not multiplied, but a component that has some is taken with its middle one."""
    components = {found.component.name: found for found in MANAGER.components(role)}
    return [_name(found) for found in components.values()]


def _name(found: Found) -> str:
    presets = list(found.component.presets)
    return presets[len(presets) // 2] if presets else found.component.name


def _covering(columns: list[list[str]]) -> list[Chain]:
    """Chains in which every pair of components of different roles occurs at least once, chosen greedily from all chains."""
    everything = list(product(*columns))
    pairs = {chain: {(i, j, chain[i], chain[j]) for i, j in combinations(range(len(columns)), 2)} for chain in everything}
    missing = set().union(*pairs.values())
    chosen: list[Chain] = []
    while missing:
        best = max(everything, key=lambda chain: len(pairs[chain] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return chosen


CHAINS = _covering([_names(role) for role in ROLES])
OUTCOMES: dict[Chain, str] = {}


@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_chain_runs_or_is_refused_with_the_missing_need(chain: Chain) -> None:
    synth, quant, calib, loss = chain
    try:
        result = tiny_run({"synth": synth, "quant": quant, "calib": [calib], "loss": [loss]}, steps=2, manager=MANAGER)
    except PlanError as error:
        OUTCOMES[chain] = "refused"
        assert any(need in str(error) for need in NEEDS), f"refused without naming a need: {error}"
        assert any(name in str(error) for name in chain), f"refused without naming a component: {error}"
    else:
        OUTCOMES[chain] = "runs"
        assert result.report["steps"] == 2
        assert result.student.points


def test_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints how many ran and how many were refused; most must run."""
    if len(OUTCOMES) < len(CHAINS):
        pytest.skip("only part of the matrix was run")
    ran = sum(outcome == "runs" for outcome in OUTCOMES.values())
    with capsys.disabled():
        print(f"\nchains: {ran} ran, {len(OUTCOMES) - ran} refused at compose time, of {len(CHAINS)} that cover every pair")
    assert ran > len(OUTCOMES) / 2
