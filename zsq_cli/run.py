"""``zsq run``, ``plan`` and ``eval``: flags to recipe to plan to engine, and the results to the screen."""

from __future__ import annotations

import json as json_
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq.component import Role
from zsq.errors import FileError
from zsq.manager import Found, Manager
from zsq.recipe import Recipe, apply_flags, apply_settings, parse_entry, pin_warnings, read_recipe

if TYPE_CHECKING:
    from zsq.compose import Plan


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags that ``run`` and ``plan`` share, as typed."""

    teacher: str | None = None
    synth: str | None = None
    quant: str | None = None
    calib: Sequence[str] | None = None
    loss: Sequence[str] | None = None
    tune: str | None = None
    set: Sequence[str] | None = None
    eval: Sequence[str] | None = None
    export: Sequence[str] | None = None
    weights: Path | None = None
    recipe: Path | None = None
    budget: str | None = None
    seed: int | None = None
    precision: str | None = None
    plugin_files: Sequence[Path] | None = None
    no_plugins: bool = False

    def to_recipe(self) -> Recipe:
        """The recipe file, if any, with flags and then ``--set`` laid over it."""
        recipe = read_recipe(self.recipe) if self.recipe else Recipe()
        keys = ("teacher", "synth", "quant", "calib", "loss", "tune", "eval", "export", "budget", "seed", "precision")
        flags = {key: getattr(self, key) for key in keys}
        flags["precision"] = str(self.precision) if self.precision else None
        return apply_settings(apply_flags(recipe, weights=str(self.weights) if self.weights else None, **flags), self.set or ())

    def manager(self) -> Manager:
        """The plugins that may take part."""
        return Manager.discover(third_party=not self.no_plugins, files=tuple(self.plugin_files or ()))

    def named(self, manager: Manager) -> Iterator[Found]:
        """The components that the flags name, each once."""
        for role in (Role.SYNTH, Role.QUANT, Role.CALIB, Role.LOSS, Role.TUNE, Role.EVAL, Role.EXPORT):
            value = getattr(self, role.value) or ()
            for text in (value,) if isinstance(value, str) else dict.fromkeys(value):
                yield manager.get(role, parse_entry(role.value, text)["name"])


def run_flags(flags: Flags, out: Path | None, *, json: bool = False, trust_code: bool = False) -> None:
    """``zsq run``: everything is checked before torch is imported, and progress goes to standard error."""
    from zsq.compose import compose
    from zsq_cli import render

    recipe, manager = flags.to_recipe(), flags.manager()
    plan = compose(recipe, manager)
    for line in pin_warnings(recipe):
        render.console(error=True).print(line, style="yellow")
    from zsq.run.engine import run

    with render.progress() as listener:
        result = run(plan, out or default_folder(plan), manager=manager, listeners=(listener,), trust_code=trust_code)
    if json:
        render.print_json(result.report)
    else:
        render.console().print(render.report_table(result.report, result.folder))


def plan_flags(flags: Flags, *, json: bool = False) -> None:
    """``zsq plan``: composes, and prints what would run."""
    from zsq.compose import compose
    from zsq_cli import render

    plan = compose(flags.to_recipe(), flags.manager())
    if json:
        render.print_json(plan.describe())
    else:
        render.console().print(render.plan_table(plan))


def print_options(flags: Flags) -> None:
    """The options of the components named on the line, below a command's own help."""
    from zsq_cli import render

    for found in flags.named(flags.manager()):
        render.console().print(render.options_help(found))


def default_folder(plan: Plan) -> Path:
    """``runs/SYNTH-QUANT-SEED``."""
    return Path("runs") / f"{plan.synth.name}-{plan.quant.name}-{plan.run.seed}".replace("/", "-")


def evaluate_run(folder: Path, evaluators: Sequence[str], settings: Sequence[str], *, json: bool = False, files: Sequence[Path] = (),
                 third_party: bool = True) -> None:  # fmt: skip
    """``zsq eval``: the saved student under evaluators that need no teacher, beside the teacher's own figures in its report."""
    report = read_report(folder)
    raise NotImplementedError


def read_report(folder: Path) -> dict[str, Any]:
    """``report.json`` of a run folder.

    Raises:
        FileError: When the folder is not a run, or the report is damaged.
    """
    try:
        report = json_.loads((folder / "report.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"'{folder}' is not a run", "", "give a folder that `zsq run` wrote") from None
    except (OSError, ValueError) as error:
        raise FileError(f"the report cannot be read: {error}", str(folder / "report.json")) from None
    if not isinstance(report, dict) or not {"teacher", "student"} <= report.keys():
        raise FileError("the report is not one of a run", str(folder / "report.json"))
    return report
