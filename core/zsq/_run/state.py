"""What a run has made so far. The engine fills it; checkpoints, reports and messages read it."""

from __future__ import annotations

import hashlib
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zsq._plugin import MEMORY
from zsq._run.stopping import Budget, LastGood
from zsq.training import choose_precision
from zsq.types import Context

if TYPE_CHECKING:
    from zsq._plan import Choice, Plan
    from zsq._run.folder import RunFolder
    from zsq._run.stream import Stream
    from zsq.training import Objective, Probe
    from zsq.types import Finder, Say, Student, Teacher


@dataclass(frozen=True)
class Phase:
    """The phase that a run is in: its name, the component that it belongs to, and the object that does the work, if there is one."""

    name: str = "teacher"
    choice: Choice | None = None
    worker: Any = None


@dataclass(kw_only=True)
class RunState:
    """The state of one run.

    Args:
        plan: What is run.
        out: The folder that the run is written to.
        log: Shows a message to the user.
        finder: Builds components by name.
        trust_code: Allow weights files that contain code.
        cache: Folder for images that later runs can use again; None keeps nothing.
        before: Seconds that the run took before it was interrupted.
    """

    plan: Plan
    out: RunFolder
    log: Say
    finder: Finder
    trust_code: bool = False
    cache: Path | None = None
    before: float = 0.0

    phase: Phase = field(default_factory=Phase)
    teacher: Teacher | None = None
    objective: Objective | None = None
    synth: Any = None
    student: Student | None = None
    last_good: LastGood | None = None
    probe: Probe | None = None
    stream: Stream | None = None
    calibrated: dict[str, float] | None = None
    steps: int = 0
    stopped: bool = False
    timings: list[dict[str, Any]] = field(default_factory=list)
    rngs: dict[str, torch.Generator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began, options = time.monotonic() - self.before, self.plan.run
        self.device = torch.device(options.device)
        self.precision = choose_precision(options.precision, self.device, self.plan.quant.bits)
        self.budget = Budget(options.budget_seconds, lambda: self.seconds)
        self.rng("run")

    @property
    def seconds(self) -> float:
        """Seconds since the run began; a resumed run counts the time before the interruption."""
        return time.monotonic() - self._began

    @property
    def command(self) -> str:
        """What resumes this run, for messages. Objects in memory must be passed again, in Python."""
        if any(choice.provider == MEMORY for choice in (*self.plan.choices, *self.plan.logs)):
            return f"zsq.quantize(network, out={str(self.out.target)!r}, resume=True), with the same objects,"
        return f"`zsq run --resume {shlex.quote(str(self.out.target))}`"

    def rng(self, key: str) -> torch.Generator:
        """A new random generator for ``key``. Each component has its own: changing one does not change another's noise."""
        digest = hashlib.sha256(f"{self.plan.run.seed}:{key}".encode()).digest()
        self.rngs[key] = torch.Generator(self.device).manual_seed(int.from_bytes(digest[:7], "big"))
        return self.rngs[key]

    def context(self, rng: torch.Generator | None = None, **fields: Any) -> Context:
        """The context of a component that is built now: what the run has made so far, and ``fields``."""
        options = self.plan.run
        known = {
            "teacher": self.teacher,
            "student": self.student,
            "probe": self.probe,
            "objective": self.objective,
            "precision": self.precision,
        }
        return Context(
            rng=rng or self.rngs["run"],
            device=self.device,
            workdir=self.out.scratch,
            log=self.log,
            seed=options.seed,
            batch_size=options.batch_size,
            trust_code=self.trust_code,
            cache=self.cache,
            finder=self.finder,
            **{**known, **fields},
        )

    def build(self, choice: Choice, key: str, **fields: Any) -> Any:
        """Build the component of a choice."""
        return choice.component.implementation()(choice.options, self.context(self.rng(key), **fields))
