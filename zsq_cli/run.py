"""``zsq run``, ``plan`` and ``eval``: flags to recipe to plan to engine, and the results to the screen."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from zsq._api.recipes import apply_flags, find_recipe, pin_warnings
from zsq._component import Role
from zsq._manager import Manager
from zsq._plugin import Found
from zsq._recipe import Recipe, apply_settings, parse_entry, read_recipe
from zsq.errors import ZsqError
from zsq.files import cache_folder

if TYPE_CHECKING:
    from zsq._plan import Plan


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
    log: Sequence[str] | None = None
    weights: Path | None = None
    recipe: str | None = None
    budget: str | None = None
    seed: int | None = None
    precision: str | None = None
    plugin_files: Sequence[Path] | None = None
    no_plugins: bool = False

    def to_recipe(self, manager: Manager) -> Recipe:
        """The recipe, if any is named, with flags and then ``--set`` laid over it."""
        recipe = read_recipe(find_recipe(self.recipe, manager)) if self.recipe else Recipe()
        keys = ("teacher", "synth", "quant", "calib", "loss", "tune", "eval", "export", "log", "budget", "seed", "precision")
        flags = {key: getattr(self, key) for key in keys}
        flags["precision"] = str(self.precision) if self.precision else None
        return apply_settings(apply_flags(recipe, weights=str(self.weights) if self.weights else None, **flags), self.set or ())

    def refuse(self, flag: str, out: Path | None) -> None:
        """Refuse flags that say anew what ``flag`` takes as it is.

        Raises:
            ZsqError: Naming the first.
        """
        given = {"out": out, **{field.name: getattr(self, field.name) for field in fields(self)}}
        known = next((name for name, value in given.items() if value and name not in ("plugin_files", "no_plugins")), None)
        if known is not None or self.seed is not None:
            name = known or "seed"
            what = f"{flag} goes on with a run as it was asked for"
            raise ZsqError(what, "TEACHER" if name == "teacher" else f"--{name}", f"leave that out, or leave out {flag}")

    @contextmanager
    def said_again(self, trust_code: bool) -> Iterator[None]:
        """Inside, an error that names the command that goes on with a run also names the flags that are no part of the recipe."""
        words = [f"--plugin-file {shlex.quote(str(file))}" for file in self.plugin_files or ()]
        words += [flag for flag, given in (("--no-plugins", self.no_plugins), ("--trust-code", trust_code)) if given]
        try:
            yield
        except ZsqError as error:
            error.hint = re.sub(r"`(zsq run --resume [^`]+)`", lambda match: f"`{' '.join([match[1], *words])}`", error.hint)
            raise

    def manager(self) -> Manager:
        """The plugins that may take part."""
        return Manager.discover(third_party=not self.no_plugins, files=tuple(self.plugin_files or ()))

    def named(self, manager: Manager) -> Iterator[Found]:
        """The components that the flags name, each once."""
        for role in (Role.SYNTH, Role.QUANT, Role.CALIB, Role.LOSS, Role.TUNE, Role.EVAL, Role.EXPORT, Role.LOG):
            value = getattr(self, role.value) or ()
            for text in (value,) if isinstance(value, str) else dict.fromkeys(value):
                yield manager.get(role, parse_entry(role.value, text)["name"])


def run_flags(flags: Flags, out: Path | None, *, json: bool = False, trust_code: bool = False, push: str | None = None,
              private: bool | None = None, resume: Path | None = None) -> None:  # fmt: skip
    """``zsq run``: everything is checked before torch is imported, the right to ``push`` as well; progress goes to standard error."""
    from zsq._compose import compose
    from zsq_cli import render

    manager, saved = flags.manager(), None
    if resume is None:
        recipe = flags.to_recipe(manager)
        plan = compose(recipe, manager)
        for line in pin_warnings(recipe):
            render.console(error=True).print(line, style="yellow")
    else:
        from zsq._run.checkpoints import reopen

        flags.refuse("--resume", out)
        out = resume
        plan, saved = reopen(resume, manager)
    if push is not None:
        from zsq_cli.push import ready

        ready(push, plan)
    from zsq._api.quantize import start
    from zsq_cli.memory import keep_freed_memory

    keep_freed_memory()
    out = out or default_folder(plan)
    with flags.said_again(trust_code):
        result = start(plan, out, manager, saved=saved, cache=cache_folder(), trust_code=trust_code)
    if json:
        render.print_json(result.report)
    else:
        render.console().print(render.report_table(result.report, result.folder))
    if push is not None:
        from zsq_cli.push import publish_finished, said

        assert result.folder is not None
        render.console(error=json).print(said(publish_finished(result.folder, push, private)), soft_wrap=True)


def plan_flags(flags: Flags, *, json: bool = False) -> None:
    """``zsq plan``: composes, and prints what would run."""
    from zsq._compose import compose
    from zsq_cli import render

    manager = flags.manager()
    plan = compose(flags.to_recipe(manager), manager)
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


def evaluate_run(
    place: Path, evaluators: Sequence[str], *, json: bool = False, files: Sequence[Path] = (), third_party: bool = True
) -> None:
    """``zsq eval``: the saved student on real images.

    Without ``evaluators`` those of the run, else the one that its teacher brings. The teacher's own figures stand beside only
    where the run measured them in the same way: no figures of different images are ever compared.
    """
    from zsq._api.saved import SavedRun
    from zsq_cli import render

    run = SavedRun.open(place, manager=Manager.discover(third_party=third_party, files=files))
    metrics, own = run.evaluate(evaluators)
    images = int(metrics.pop("images", 0))
    if json:
        teacher = {"ref": run.report["teacher"]["ref"], "metrics": own}
        render.print_json({"student": {"metrics": metrics}, "teacher": teacher, "images_evaluated": images})
    else:
        render.console().print(render.metrics_table({**metrics, "images": images}, own))
