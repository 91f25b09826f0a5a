"""Checks for components of every role."""

from __future__ import annotations

import json
import operator
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from zsq._component import GROUP
from zsq.errors import ZsqError
from zsq.testing import _exercise as exercise
from zsq.testing._kit import Case, Skip

_BEYOND = {"ge": operator.sub, "gt": operator.sub, "le": operator.add, "lt": operator.add}


def check_entry_module_is_light(case: Case) -> None:
    """The entry module, and with it the descriptor and its options, is imported without torch."""
    for module in _entry_modules(case):
        code = f"import sys, {module}\nassert 'torch' not in sys.modules, 'importing {module} imports torch'"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr.strip().splitlines()[-1]


def check_options_are_described(case: Case) -> None:
    """The component has a summary, every option a help text and a valid default, and options survive JSON."""
    assert case.component.summary.strip(), f"{case.component.name} has no summary"
    for row in case.component.options.describe():
        assert row.help.strip(), f"option '{row.name}' has no help"
    for options in (case.component.options(), case.options()):
        again = case.component.options.parse(json.loads(json.dumps(options.to_dict())))
        assert again == options, f"options changed on their way through JSON: {options} became {again}"


def check_bad_options_are_refused(case: Case) -> None:
    """An unknown option, and a number beyond its bounds, raises a ``ZsqError``."""
    _refused(case, {"no_such_option": 1})
    for name, field in case.component.options.__dataclass_fields__.items():
        for kind, bound in field.metadata["bounds"].items():
            value = _BEYOND[kind](bound, 1)
            _refused(case, {name: [value] if isinstance(field.default, tuple) else value})


def check_same_seed_same_bits(case: Case) -> None:
    """Built twice with the same seed, it computes the same result bit for bit."""
    from zsq.testing.world import digest, make_teacher

    first, second = (digest(exercise.run(case, make_teacher(), seed=3)) for _ in range(2))
    assert first == second, "two runs with the same seed differ: draw every random number from ctx.rng"


def check_leaves_the_world_alone(case: Case) -> None:
    """Global random state, grad mode, default dtype, threads and the teacher are as they were before."""
    from zsq.testing.world import changed, global_state, make_teacher, module_state

    teacher = make_teacher()
    exercise.run(case, make_teacher())  # a first use may initialise libraries
    before, network = global_state(), module_state(teacher.module)
    exercise.run(case, teacher)
    assert not (keys := changed(before, global_state())), f"changed: {', '.join(keys)}"
    assert not (keys := changed(network, module_state(teacher.module))), f"changed in the teacher: {', '.join(keys)}"


def _refused(case: Case, values: dict[str, Any]) -> None:
    try:
        case.component.options.parse(values)
    except ZsqError:
        return
    raise AssertionError(f"options {values} were accepted")


def _entry_modules(case: Case) -> list[str]:
    name = case.found.provider.split()[0]
    if name == "zsq":
        return ["zsq._builtin"]
    try:
        points = distribution(name).entry_points.select(group=GROUP)
    except PackageNotFoundError:
        raise Skip(f"{case.found.provider} is not an installed distribution") from None
    return [point.module for point in points]
