"""Checks of whole chains: the component with every built-in of the other roles, two steps each."""

from __future__ import annotations

from zsq._component import NEEDS, Role
from zsq.errors import PlanError
from zsq.testing._kit import Case, applies_to

_SINGLE = (Role.SYNTH, Role.QUANT, Role.TUNE)


@applies_to(lambda found: found.role is not Role.SYNTH)
def check_chain_with_every_synthesizer(case: Case) -> None:
    _with_every(case, Role.SYNTH)


@applies_to(lambda found: found.role is not Role.QUANT)
def check_chain_with_every_quantizer(case: Case) -> None:
    _with_every(case, Role.QUANT)


@applies_to(lambda found: found.role is not Role.CALIB)
def check_chain_with_every_calibrator(case: Case) -> None:
    _with_every(case, Role.CALIB)


@applies_to(lambda found: found.role is not Role.LOSS)
def check_chain_with_every_loss(case: Case) -> None:
    _with_every(case, Role.LOSS)


def _with_every(case: Case, role: Role) -> None:
    """Each chain runs, or is refused with a message that names the missing need."""
    from zsq.testing._chains import tiny_run

    own = {"name": case.found.preset or case.component.name, **case.settings}
    for other in case.manager.components(role):
        if other.preset is not None or not other.provider.startswith("zsq "):
            continue
        entry = {"name": other.component.name}
        sections = {case.role.value: own if case.role in _SINGLE else [own], role.value: entry if role in _SINGLE else [entry]}
        try:
            tiny_run(sections, manager=case.manager)
        except PlanError as error:
            assert any(need in error.what for need in NEEDS), f"refused without naming a need: {error}"
