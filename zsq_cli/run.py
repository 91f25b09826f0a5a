"""``zsq run`` and ``zsq plan``: flags become a recipe, the recipe a plan; the results are printed."""

from __future__ import annotations

import ctypes
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

#: Parameters of glibc's mallopt: when memory goes back to the system, and how many blocks are mapped separately.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


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
        """The recipe, with flags and then ``--set`` applied."""
        recipe = read_recipe(find_recipe(self.recipe, manager)) if self.recipe else Recipe()
        keys = ("teacher", "synth", "quant", "calib", "loss", "tune", "eval", "export", "log", "budget", "seed", "precision")
        flags = {key: getattr(self, key) for key in keys}
        flags["precision"] = str(self.precision) if self.precision else None
        return apply_settings(apply_flags(recipe, weights=str(self.weights) if self.weights else None, **flags), self.set or ())

    def refuse(self, flag: str, out: Path | None) -> None:
        """Refuse flags that ``flag`` takes from the run.

        Raises:
            ZsqError: With the name of the first.
        """
        given = {"out": out, **{field.name: getattr(self, field.name) for field in fields(self)}}
        known = next((name for name, value in given.items() if value and name not in ("plugin_files", "no_plugins")), None)
        if known is not None or self.seed is not None:
            name = known or "seed"
            what = f"{flag} uses the settings of the run"
            raise ZsqError(what, "TEACHER" if name == "teacher" else f"--{name}", f"remove it, or remove {flag}")

    @contextmanager
    def repeated(self, trust_code: bool) -> Iterator[None]:
        """Inside, an error with the command that resumes a run also names the flags that are not in the recipe."""
        words = [f"--plugin-file {shlex.quote(str(file))}" for file in self.plugin_files or ()]
        words += [flag for flag, given in (("--no-plugins", self.no_plugins), ("--trust-code", trust_code)) if given]
        try:
            yield
        except ZsqError as error:
            error.hint = re.sub(r"`(zsq run --resume [^`]+)`", lambda match: f"`{' '.join([match[1], *words])}`", error.hint)
            raise

    def manager(self) -> Manager:
        """The plugins of this command."""
        return Manager.discover(third_party=not self.no_plugins, files=tuple(self.plugin_files or ()))

    def named(self, manager: Manager) -> Iterator[Found]:
        """The components that the flags name, each once."""
        for role in (Role.SYNTH, Role.QUANT, Role.CALIB, Role.LOSS, Role.TUNE, Role.EVAL, Role.EXPORT, Role.LOG):
            value = getattr(self, role.value) or ()
            for text in (value,) if isinstance(value, str) else dict.fromkeys(value):
                yield manager.get(role, parse_entry(role.value, text)["name"])


def run_flags(flags: Flags, out: Path | None, *, json: bool = False, trust_code: bool = False, push: str | None = None,
              private: bool | None = None, resume: Path | None = None) -> None:  # fmt: skip
    """``zsq run``: check everything, also ``push``, before torch is imported; then run. Progress goes to standard error."""
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
        from zsq_cli.saved import ready_to_push

        ready_to_push(push, plan)
    from zsq._api.quantize import start

    _keep_freed_memory()
    out = out or default_folder(plan)
    with flags.repeated(trust_code):
        result = start(plan, out, manager, saved=saved, cache=cache_folder(), trust_code=trust_code)
    if json:
        render.print_json(result.report)
    else:
        render.console().print(render.report_table(result.report, result.folder))
    if push is not None:
        from zsq_cli.saved import publish_finished, published_line

        assert result.folder is not None
        render.console(error=json).print(published_line(publish_finished(result.folder, push, private)), soft_wrap=True)


def plan_flags(flags: Flags, *, json: bool = False) -> None:
    """``zsq plan``: compose, and print what would run."""
    from zsq._compose import compose
    from zsq_cli import render

    manager = flags.manager()
    plan = compose(flags.to_recipe(manager), manager)
    if json:
        render.print_json(plan.describe())
    else:
        render.console().print(render.plan_table(plan))


def print_options(flags: Flags) -> None:
    """Print the options of the components on the command line, below the help of the command."""
    from zsq_cli import render

    for found in flags.named(flags.manager()):
        render.console().print(render.options_help(found))


def default_folder(plan: Plan) -> Path:
    """``runs/SYNTH-QUANT-SEED``."""
    return Path("runs") / f"{plan.synth.name}-{plan.quant.name}-{plan.run.seed}".replace("/", "-")


def _keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensor, instead of mapping large tensors again.

    Each new page costs a page fault: for 32 images of 224 pixels these take as long as the arithmetic of a forward pass. Peak memory
    grows by 10 to 25 %. Only for glibc; elsewhere without effect.
    """
    try:
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    except (AttributeError, OSError, TypeError):
        return
