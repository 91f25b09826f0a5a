"""Runs a plan from teacher to files. Every phase is a generator of beats, so progress, budget and clean stops are here once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zsq import events
from zsq.compose import Choice, Plan, choose_evaluator, compose
from zsq.errors import PlanError
from zsq.recipe import Recipe, RunOptions
from zsq.run import checkpoint
from zsq.run import report as reporting
from zsq.run.diversity import diversity
from zsq.run.folder import RunFolder
from zsq.run.guard import LastGood, NotFinite, Watch
from zsq.run.objective import Objective, Term
from zsq.run.precision import choose_precision
from zsq.run.probe import TEACHER_NEEDS, Probe, batch_norms
from zsq.run.stream import Stream
from zsq.types import Beat, Context, Student, Teacher

if TYPE_CHECKING:
    from zsq.manager import Manager

Listener = Callable[[events.Event], None]

#: Share of the time left that a phase may use under ``--budget``; tuning gets what calibration leaves.
_SHARES = {"prepare": 0.3, "calibrate": 0.4, "tune": 1.0}
#: Share of the budget kept for evaluation and saving.
_RESERVE = 0.1


@dataclass(frozen=True)
class Result:
    """What a run leaves: its report, its student, and the folder it was written to (None when nothing was asked to be written)."""

    report: Mapping[str, Any]
    student: Student
    folder: Path | None


def run(plan: Plan | Recipe, folder: Path | str | None = None, *, manager: Manager | None = None, listeners: Sequence[Listener] = (),
        trust_code: bool = False, cache: Path | None = None) -> Result:  # fmt: skip
    """Run a plan (or compose a recipe first) and write its run folder.

    Args:
        plan: What to run.
        folder: Where the finished run goes; it appears there whole or not at all. None writes nothing.
        manager: Where event implementations are found; discovered anew when None.
        listeners: Called with every event.
        trust_code: Allow checkpoints that carry code.
        cache: Where pools and the like are kept for later runs; None keeps nothing.

    Raises:
        ZsqError: With what, where and a hint; ``folder`` is then as it was before.
    """
    if manager is None:
        from zsq.manager import Manager

        manager = Manager.discover()
    if isinstance(plan, Recipe):
        plan = compose(plan, manager)
    with RunFolder(Path(folder) if folder is not None else None) as out:
        return _Engine(plan, out, manager, (*listeners, manager.emit), trust_code, cache).run()


class _Engine:
    """State of one run: the clock, the events, the context that components are built with."""

    def __init__(self, plan: Plan, out: RunFolder, manager: Manager, listeners: Sequence[Listener], trust_code: bool,
                 cache: Path | None) -> None:  # fmt: skip
        self.plan, self.out, self.manager, self.listeners = plan, out, manager, listeners
        self.began = time.monotonic()
        self.phases: list[dict[str, Any]] = []
        self.stopped = False
        self.steps = 0
        self.good: LastGood | None = None
        self.stream: Stream | None = None
        self.calibrated: dict[str, float] | None = None
        options: RunOptions = plan.run
        self.budget = options.budget_seconds
        device = torch.device(options.device)
        bits = max(getattr(plan.quant.options, name, 8) or 16 for name in ("weight_bits", "act_bits"))
        self.ctx = Context(
            rng=_rng(options.seed, "run", device),
            device=device,
            precision=choose_precision(options.precision, device, bits),
            workdir=out.scratch,
            log=lambda text: self.emit(events.Message(self.seconds, text)),
            seed=options.seed,
            batch_size=options.batch_size,
            trust_code=trust_code,
            cache=cache,
        )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def emit(self, event: events.Event) -> None:
        for listener in self.listeners:
            listener(event)

    def build(self, choice: Choice, key: str, **fields: Any) -> Any:
        """The implementation of a choice, with a random generator of its own: changing one component leaves the others' noise alone."""
        ctx = self.ctx.with_(rng=_rng(self.plan.run.seed, key, self.ctx.device), **fields)
        return choice.component.implementation()(choice.options, ctx)

    def run(self) -> Result:
        try:
            return self.work()
        except NotFinite as fault:
            raise checkpoint.stopped(fault, self.good, self) from None

    def work(self) -> Result:
        """All phases in their order."""
        plan = self.plan
        self.emit(events.RunStarted(self.seconds, plan.describe(), self.out.target))
        teacher = self.phase("teacher", self.load_teacher)
        self.check_teacher(teacher)
        evaluators = self.evaluators(teacher)
        objective = Objective(
            [Term(c.name, self.build(c, f"loss:{c.name}", teacher=teacher), c.weight, frozenset(c.component.needs)) for c in plan.losses]
        )
        probe = Probe(teacher, self.ctx.precision)
        self.ctx = self.ctx.with_(teacher=teacher, probe=probe, objective=objective)
        staged = not hasattr(plan.synth.component.implementation(), "update")  # then no student is on a grid while images are made
        making = choose_precision(plan.run.precision, self.ctx.device) if staged else self.ctx.precision
        synth = self.build(plan.synth, "synth", precision=making)
        quant = self.build(plan.quant, "quant")
        if needs_pool := "pool" in plan.quant.component.needs:
            self.prepare(synth, Probe(teacher, making))
            pool = synth.sample(len(synth.pool))
            if hasattr(quant, "prepare"):  # all of it or nothing: the budget ends later phases, not this one
                self.beats("measure", quant.prepare(teacher, pool), len(pool), limited=False)
        student: Student = self.phase("quantize", lambda: quant.quantize(teacher, pool if needs_pool else None))
        self.good = LastGood(student)
        probe.student = student
        self.ctx = self.ctx.with_(student=student)
        if not needs_pool:
            self.prepare(synth, Probe(teacher, making) if staged else probe)
        stream = self.stream = Stream(synth, probe, student, plan.run.batch_size)
        if stream.cadence.reuse:
            probe.also = objective.needs & TEACHER_NEEDS
        for index, choice in enumerate(plan.calibrators):
            last = index + 1 == len(plan.calibrators)
            work = self.build(choice, f"calib:{index}").fit(student, stream)
            self.beats(f"calibrate:{choice.name}", work, plan.run.batch_size, calibrated=last)
        if plan.run.calibrated:
            self.calibrated = self.phase("evaluate:calibrated", lambda: self.measure(evaluators, student))
        tuner = self.build(plan.tuner, "tune")
        self.steps = self.beats(f"tune:{plan.tuner.name}", tuner.fit(student, stream, objective), plan.run.batch_size)
        checkpoint.freeze(student)
        metrics, own, images = self.phase("evaluate", lambda: self.evaluate(evaluators, stream, student))
        report = reporting.build(plan, teacher, student, metrics, own, images, self)
        if self.out.scratch is not None:
            self.phase("export", lambda: self.export(student, report, stream))
            report = reporting.finish(report, self, self.out.scratch)
            self.out.publish()
        self.emit(events.RunEnded(self.seconds, report))
        return Result(report, student, self.out.target)

    def load_teacher(self) -> Teacher:
        teacher: Teacher = self.build(self.plan.teacher, "teacher").load(self.plan.ref)
        teacher.module.eval().requires_grad_(False).to(self.ctx.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return teacher

    def check_teacher(self, teacher: Teacher) -> None:
        """Refuse components that need what this teacher does not have, before any training."""
        if batch_norms(teacher.module):
            return
        for choice in (self.plan.synth, self.plan.quant, *self.plan.calibrators, *self.plan.losses):
            if "teacher.bn" in choice.component.needs:
                raise PlanError(
                    f"'{choice.name}' needs teacher.bn, but the teacher has no BatchNorm layer",
                    f"teacher {teacher.ref}",
                    "use components without that need (`zsq show NAME`), e.g. --synth noise --calib mean-image-max --loss kd",
                )

    def prepare(self, synth: Any, probe: Probe) -> None:
        if hasattr(synth, "prepare"):
            self.beats("prepare", synth.prepare(probe), self.plan.run.batch_size)

    def evaluators(self, teacher: Teacher) -> list[Any]:
        """The chosen evaluators, and those the teacher brings when none was asked for; their files are checked before any work."""
        choices = list(self.plan.evaluators)
        if self.plan.default_eval and teacher.evaluation:
            choices.append(choose_evaluator(teacher.evaluation, self.manager))
        built = [self.build(choice, f"eval:{choice.name}", teacher=teacher) for choice in choices]
        for evaluator in built:
            if hasattr(evaluator, "check"):
                evaluator.check(self.ctx.with_(teacher=teacher))
        return built

    def measure(self, evaluators: list[Any], student: Student) -> dict[str, float]:
        """Metrics of the student before it is tuned, by the evaluators that draw no batch: the stream goes on as without this."""
        found = [e.evaluate(student.module, self.ctx) for e in evaluators if not getattr(e, "compares", False)]
        return {name: value for metrics in found for name, value in metrics.items() if name != "images"}

    def evaluate(self, evaluators: list[Any], stream: Stream, student: Student) -> tuple[dict[str, float], dict[str, float], Any]:
        """Metrics of the student, those of the teacher under the same evaluators, and figures of the images where there are any."""
        ctx = self.ctx.with_(sampler=stream.sample)
        metrics: dict[str, float] = {}
        own: dict[str, float] = {}
        for evaluator in evaluators:
            metrics |= evaluator.evaluate(student.module, ctx)
            if not getattr(evaluator, "compares", False):
                own |= evaluator.evaluate(ctx.teacher.module, ctx)
        images = diversity(stream, ctx.teacher, Probe(ctx.teacher, ctx.precision)) if "images" in self.plan.synth.provides else None
        return metrics, own, images

    def export(self, student: Student, report: dict[str, Any], stream: Stream) -> None:
        folder = self.out.scratch
        assert folder is not None
        for choice in self.plan.exporters:
            self.build(choice, f"export:{choice.name}").export(student, reporting.manifest(report), folder)
        images = stream.sample(64) if "images" in self.plan.synth.provides else None
        reporting.write_files(folder, self.plan, report, self.ctx.teacher.inputs, images)

    def phase(self, name: str, work: Callable[[], Any]) -> Any:
        """Run ``work`` as a timed phase."""
        start = self.seconds
        self.emit(events.PhaseStarted(start, name))
        try:
            return work()
        finally:
            self.phases.append({"name": name, "seconds": round(self.seconds - start, 3)})
            self.emit(events.PhaseEnded(self.seconds, name))

    def beats(self, name: str, work: Iterable[Beat], images: int, limited: bool = True, calibrated: bool = False) -> int:
        """Drive a generator of beats to its end or, when ``limited``, to the end of its share of the budget; the number of beats.
        After one that leaves the student ``calibrated``, its activations have to have ranges.

        Raises:
            NotFinite: When a metric, or a parameter or range of the student, is nan or infinite.
        """
        start, limit, count, stopped = self.seconds, self.limit(name) if limited else None, 0, False
        iterator: Iterator[Beat] = iter(work)
        watch = Watch(name, self.good)
        self.emit(events.PhaseStarted(start, name))
        try:
            for beat in iterator:
                count = beat.step
                self.emit(events.Stepped(self.seconds, name, beat.step, beat.total, beat.metrics, images))
                watch(beat, self.stream.metrics if self.stream else {})
                if limit is not None and self.seconds >= limit:
                    stopped = self.stopped = beat.step < beat.total
                    break
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
        watch.finish(count, calibrated)
        self.phases.append({"name": name, "seconds": round(self.seconds - start, 3)})
        self.emit(events.PhaseEnded(self.seconds, name, stopped))
        return count

    def limit(self, name: str) -> float | None:
        """The second at which a phase has to end, or None without a budget."""
        if self.budget is None:
            return None
        left = self.budget * (1 - _RESERVE) - self.seconds
        return self.seconds + max(0.0, left) * _SHARES[name.partition(":")[0]]


def _rng(seed: int, key: str, device: torch.device) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
