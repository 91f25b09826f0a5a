"""The hooks and the roles are one list; every hook is a collector without arguments but the one broadcast."""

from __future__ import annotations

import inspect

from zsq import _hookspecs as hookspecs
from zsq._component import Role
from zsq._plugin import ANY_ROLE

SPECS = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "zsq_spec")}


def test_every_role_has_its_hook_and_every_hook_its_role() -> None:
    assert set(SPECS) == {role.hook for role in Role} | {ANY_ROLE, "zsq_event"}


def test_collectors_take_no_arguments() -> None:
    assert {name: list(inspect.signature(spec).parameters) for name, spec in SPECS.items()} == {
        **{role.hook: [] for role in Role},
        ANY_ROLE: [],
        "zsq_event": ["event"],
    }


def test_no_hook_depends_on_the_order_of_registration() -> None:
    for spec in SPECS.values():
        assert not spec.zsq_spec["firstresult"] and not spec.zsq_spec["historic"]
