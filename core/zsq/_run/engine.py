"""Runs a plan from teacher to files. Every phase is a generator of beats, so progress, budget and clean stops are here once."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zsq import events
from zsq._component import TEACHER_NEEDS
from zsq._compose import choose_evaluator, compose
from zsq._manager import MEMORY
from zsq._plan import Choice, Plan
from zsq._recipe import Recipe, RunOptions
from zsq._run import checkpoint, resume
from zsq._run import report as reporting
from zsq._run.diversity import diversity
from zsq._run.evaluation import Evaluation
from zsq._run.finding import finder
from zsq._run.folder import RunFolder
from zsq._run.guard import LastGood, NotFinite, Watch
from zsq._run.interrupt import Interrupted, Stop
from zsq._run.journal import Journal
from zsq._run.logs import Logs
from zsq._run.memory import is_out_of_memory, out_of_memory
from zsq._run.objective import Objective, Term
from zsq._run.pace import Pace
from zsq._run.stream import Stream
from zsq._run.tasks import maker
from zsq.errors import PlanError, ZsqError
from zsq.protocols import Checked, Measuring, Staged
from zsq.teachers import to_channels_last
from zsq.training import Probe, batch_norms, choose_precision
from zsq.types import Batch, Beat, Context, Student, Teacher

if TYPE_CHECKING:
    from zsq._manager import Manager

Listener = Callable[[events.Event], None]

#: Share of the time left that a phase may use under ``--budget``; tuning gets what calibration leaves.
_SHARES = {"prepare": 0.3, "calibrate": 0.4, "tune": 1.0}
#: Share of the budget kept for evaluation and saving.
_RESERVE = 0.1


@dataclass(frozen=True)
class Finished:
    """What a run leaves: its report, student and teacher, and the folder it was written to (None when nothing was asked to be written)."""

    report: Mapping[str, Any]
    student: Student
    teacher: Teacher
    folder: Path | None


def run(plan: Plan | Recipe, folder: Path | str | None = None, *, manager: Manager | None = None, listeners: Sequence[Listener] = (),
        trust_code: bool = False, cache: Path | None = None, stop: Stop | None = None,
        saved: Mapping[str, Any] | None = None, notes: Sequence[str] = ()) -> Finished:  # fmt: skip
    """Run a plan (or compose a recipe first) and write its run folder.

    While it runs, checkpoints are kept in ``FOLDER.checkpoint``. To go on from there, with the same bits in the end as if the run
    had been left alone: ``plan, saved = zsq._run.resume.reopen(folder, manager)``, then ``run(plan, folder, saved=saved)``.

    Args:
        plan: What to run.
        folder: Where the finished run goes; it appears there whole or not at all. None writes nothing.
        manager: Where event implementations are found; discovered anew when None.
        listeners: Called with every event.
        trust_code: Allow checkpoints that carry code.
        cache: Where pools and the like are kept for later runs; None keeps nothing.
        stop: Asked between two steps whether to stop.
        saved: The checkpoint to go on from.
        notes: Said at the beginning.

    Raises:
        ZsqError: With what, where and a hint; ``folder`` is then as it was before.
    """
    manager = manager or _discover()
    if isinstance(plan, Recipe):
        plan = compose(plan, manager)
    target = Path(folder) if folder is not None else None
    with RunFolder(target, adopt=saved["scratch"] if saved else "") as out:
        return _Engine(plan, out, manager, (*listeners, manager.emit), trust_code, cache, stop, saved).run(notes)


def _discover() -> Manager:
    from zsq._manager import Manager

    return Manager.discover()


class _Engine:
    """State of one run: the clock, the events, the context that components are built with, and where in the plan it is."""

    def __init__(self, plan: Plan, out: RunFolder, manager: Manager, listeners: Sequence[Listener], trust_code: bool,
                 cache: Path | None, stop: Stop | None = None, saved: Mapping[str, Any] | None = None) -> None:  # fmt: skip
        self.plan, self.out, self.manager, self.listeners = plan, out, manager, listeners
        self.stop = stop or Stop()
        self.began = time.monotonic() - (saved["seconds"] if saved else 0.0)
        self.phases: list[dict[str, Any]] = []
        self.stopped = False
        self.steps = 0
        self.logs: Logs | None = None
        self.student: Student | None = None
        self.good: LastGood | None = None
        self.stream: Stream | None = None
        self.calibrated: dict[str, float] | None = None
        self.pace = Pace(lambda: self.seconds)
        options: RunOptions = plan.run
        self.budget = options.budget_seconds
        device = torch.device(options.device)
        self.ctx = Context(
            rng=_rng(options.seed, "run", device),
            device=device,
            precision=choose_precision(options.precision, device, plan.quant.bits),
            workdir=out.scratch,
            log=lambda text: self.emit(events.Message(self.seconds, text)),
            seed=options.seed,
            batch_size=options.batch_size,
            trust_code=trust_code,
            cache=cache,
            finder=finder(manager),
        )
        folder = checkpoint.beside(out.target) if out.target is not None else None
        self.journal = Journal(self, resume.Checkpoints(folder, options.checkpoint, self.ctx.log), saved)
        self.journal.rngs["run"] = self.ctx.rng

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def emit(self, event: events.Event) -> None:
        for listener in self.listeners:
            listener(event)
        if self.logs is not None:
            self.logs(event)

    def build(self, choice: Choice, key: str, **fields: Any) -> Any:
        """The implementation of a choice, with a random generator of its own: changing one component leaves the others' noise alone."""
        rng = self.journal.rngs[key] = _rng(self.plan.run.seed, key, self.ctx.device)
        ctx = self.ctx.with_(rng=rng, **fields)
        return choice.component.implementation()(choice.options, ctx)

    def run(self, notes: Sequence[str] = ()) -> Finished:
        """All of it; whatever ends it early is put in words."""
        try:
            return self.work(notes)
        except Interrupted:
            raise
        except NotFinite as fault:
            self.journal.checkpoints.clear()  # it would end in the same way again
            raise checkpoint.stopped(fault, self.good, self) from None
        except KeyboardInterrupt:
            if self.journal.stands:
                raise self.interrupted() from None
            self.journal.checkpoints.clear()
            raise
        except BaseException as error:  # also SystemExit: whatever ends the run, what is left of it is to be of use
            again = self.command if self.journal.stands else ""
            if not again:
                self.journal.checkpoints.clear()
            if is_out_of_memory(error):
                worker = self.journal.worker or self.journal.synth
                raise out_of_memory(self.journal.name or "teacher", self.plan, worker, again) from error
            if again:
                self.ctx.log(f"what was done is kept: {again} goes on from there")
            raise
        finally:
            if self.logs is not None:
                self.logs.close()

    @property
    def command(self) -> str:
        """What goes on with this run: what is in memory has to be given again, in Python."""
        if any(choice.provider == MEMORY for choice in (*self.plan.choices, *self.plan.logs)):
            return f"zsq.quantize(network, out={str(self.out.target)!r}, resume=True), with all that was given in memory,"
        return f"`zsq run --resume {shlex.quote(str(self.out.target))}`"

    def interrupted(self, what: str = "stopped") -> ZsqError:
        self.out.left = True
        return Interrupted(what, "", f"{self.command} goes on with it")

    def work(self, notes: Sequence[str] = ()) -> Finished:
        """All phases in their order."""
        plan = self.plan
        self.logs = Logs(plan.logs, self.ctx, self.out.target)
        self.emit(events.RunStarted(self.seconds, plan.describe(), self.out.target))
        for note in notes:
            self.ctx.log(note)
        self.journal.begin()
        teacher = self.phase("teacher", self.load_teacher)
        self.check_teacher(teacher)
        evaluation = self.evaluation(teacher)
        objective = Objective(
            [Term(c.name, self.build(c, f"loss:{c.name}", teacher=teacher), c.weight, frozenset(c.component.needs)) for c in plan.losses]
        )
        probe = Probe(teacher, self.ctx.precision)
        self.ctx = self.ctx.with_(teacher=teacher, probe=probe, objective=objective)
        staged = not plan.synth.alternates  # then no student is on a grid while images are made
        making = choose_precision(plan.run.precision, self.ctx.device) if staged else self.ctx.precision
        synth = self.journal.synth = self.build(plan.synth, "synth", precision=making)
        quant = self.build(plan.quant, "quant")
        if needs_pool := "pool" in plan.quant.component.needs:
            self.prepare(synth, Probe(teacher, making))
            pool = Batch(**self.journal.keep("pool", lambda: _plain(synth.sample(len(synth.pool)))))
            if isinstance(quant, Measuring):  # all of it or nothing: the budget ends later phases, not this one
                self.beats("measure", partial(quant.prepare, teacher, pool), len(pool), quant, limited=False, again=True)
        student: Student = self.phase("quantize", lambda: quant.quantize(teacher, pool if needs_pool else None))
        self.student, self.good = student, LastGood(student)
        probe.student = student
        self.ctx = self.ctx.with_(student=student)
        if not needs_pool:
            self.prepare(synth, Probe(teacher, making) if staged else probe)
        stream = self.stream = Stream(synth, probe, student, plan.run.batch_size)
        if stream.cadence.reuse:
            probe.also = objective.needs & TEACHER_NEEDS
        for index, choice in enumerate(plan.calibrators):
            last = index + 1 == len(plan.calibrators)
            calibrator = self.build(choice, f"calib:{index}")
            work = partial(calibrator.fit, student, stream)
            self.beats(f"calibrate:{choice.name}", work, plan.run.batch_size, calibrator, calibrated=last)
        if plan.run.calibrated:
            before = partial(self.phase, "evaluate:calibrated", lambda: evaluation.calibrated(student, self.ctx))
            self.calibrated = self.journal.keep("calibrated", before)
        tuner = self.build(plan.tuner, "tune", pace=self.pace)
        self.steps = self.beats(f"tune:{plan.tuner.name}", partial(tuner.fit, student, stream, objective), plan.run.batch_size, tuner)
        self.journal.enter("evaluate")
        checkpoint.freeze(student)
        metrics, own, images = self.phase("evaluate", lambda: self.evaluate(evaluation, stream, student))
        report = reporting.build(plan.lasting, teacher, student, metrics, own, images, self)
        if self.out.scratch is not None:
            self.phase("export", lambda: self.export(student, report, stream))
            report = reporting.finish(report, self, self.out.scratch)
            ctx = self.ctx.with_(sampler=stream.sample if "images" in plan.synth.provides else None)
            self.emit(events.Publishing(self.seconds, report, self.out.scratch, ctx, evaluation.details))
            self.out.publish()
            self.journal.checkpoints.clear()
        self.emit(events.RunEnded(self.seconds, report))
        return Finished(report, student, teacher, self.out.target)

    def load_teacher(self) -> Teacher:
        teacher: Teacher = self.build(self.plan.teacher, "teacher", task=maker(self.plan.task)).load(self.plan.ref)
        to_channels_last(teacher.module.eval().requires_grad_(False), self.ctx.device)
        return teacher

    def check_teacher(self, teacher: Teacher) -> None:
        """Refuse components that need what this teacher does not have, before any training."""
        if teacher.task.name != self.plan.task.component.name:
            what = f"its source says that the teacher's task is '{self.plan.task.name}', but it is '{teacher.task.name}'"
            raise PlanError(what, f"teacher {teacher.ref}", f"say so: --set teacher.task={teacher.task.name}, where the source has it")
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
        if isinstance(synth, Staged):
            self.beats("prepare", partial(synth.prepare, probe), self.plan.run.batch_size)

    def evaluation(self, teacher: Teacher) -> Evaluation:
        """The chosen evaluators, and those the teacher brings when none was asked for; their files are checked before any work."""
        choices = list(self.plan.evaluators)
        if self.plan.default_eval and teacher.evaluation:
            choices.append(choose_evaluator(teacher.evaluation, self.manager))
        built = {choice.name: self.build(choice, f"eval:{choice.name}", teacher=teacher) for choice in choices}
        for evaluator in built.values():
            if isinstance(evaluator, Checked):
                evaluator.check(self.ctx.with_(teacher=teacher))
        return Evaluation(built, {choice.name for choice in choices if choice.component.compares})

    def evaluate(self, evaluation: Evaluation, stream: Stream, student: Student) -> tuple[dict[str, float], dict[str, float], Any]:
        """Metrics of the student, those of the teacher, and figures of the images where there are any."""
        ctx = self.ctx.with_(sampler=stream.sample)
        metrics, own = evaluation.both(student, ctx)
        images = diversity(stream, ctx.teacher, Probe(ctx.teacher, ctx.precision)) if "images" in self.plan.synth.provides else None
        return metrics, own, images

    def export(self, student: Student, report: dict[str, Any], stream: Stream) -> None:
        folder = self.out.scratch
        assert folder is not None
        for choice in self.plan.exporters:
            self.build(choice, f"export:{choice.name}").export(student, reporting.manifest(report), folder)
        images = stream.sample(64) if "images" in self.plan.synth.provides else None
        reporting.write_files(folder, self.plan.lasting, report, self.ctx.teacher.inputs, images)

    def phase(self, name: str, work: Callable[[], Any]) -> Any:
        """Run ``work`` as a timed phase."""
        start = self.seconds
        self.emit(events.PhaseStarted(start, name))
        try:
            return work()
        finally:
            self.phases.append({"name": name, "seconds": round(self.seconds - start, 3)})
            self.emit(events.PhaseEnded(self.seconds, name))

    def beats(self, name: str, start: Callable[[], Iterable[Beat]], images: int, worker: Any = None, limited: bool = True,
              calibrated: bool = False, again: bool = False) -> int:  # fmt: skip
        """Drive a generator of beats to its end; the number of beats. Between two of them the run may be written down, and stopped.

        Args:
            name: Of the phase.
            start: Gives the generator of beats.
            images: In one step.
            worker: The component whose work it is, where that is not the synthesizer.
            limited: End it with its share of the budget.
            calibrated: The student's activations have to have ranges afterwards.
            again: Also on the way to a later phase, where a run goes on.

        Raises:
            NotFinite: When a metric, or a parameter or range of the student, is nan or infinite.
            Interrupted: When the run was asked to stop.
        """
        journal = self.journal
        self.pace.begin(self.seconds, self.limit(name) if limited else None)
        if not journal.enter(name, worker, again):
            return 0
        if journal.passing:
            self.pace.begin(self.seconds, None)
        began, count, total, stopped = journal.started, 0, 0, False
        form = resume.structure(self.student) if self.student is not None else ""
        iterator: Iterator[Beat] = iter(start())
        watch = Watch(name, self.good)
        self.emit(events.PhaseStarted(began, name))
        try:
            with self.stop.between_steps():
                for beat in iterator:
                    count, total = beat.step, beat.total
                    made = self.stream.metrics if self.stream else {}
                    self.emit(events.Stepped(self.seconds, name, beat.step, beat.total, beat.metrics, images, made))
                    watch(beat, made)
                    written = journal.stepped(beat.step, last=self.stop.requested)
                    if self.stop.requested:
                        kept = "" if written or not journal.stands else f"; {name} does not keep its place and begins again"
                        raise self.interrupted(f"stopped at step {beat.step} of {name}{kept}") if journal.stands else KeyboardInterrupt
                    if self.pace.over:
                        stopped = beat.step < beat.total
                        break
        finally:
            if isinstance(iterator, Generator):
                iterator.close()
        if not journal.passing:
            watch.finish(count, calibrated)
        self.stopped |= stopped or self.pace.bound is not None
        if self.student is not None and resume.structure(self.student) != form and journal.at not in journal.changed:
            journal.changed.append(journal.at)
        self.phases.append({"name": name, "seconds": round(self.seconds - began, 3), "steps": count, "total": total})
        self.emit(events.PhaseEnded(self.seconds, name, stopped))
        return count

    def limit(self, name: str) -> float | None:
        """The second at which a phase has to end, or None without a budget."""
        if self.budget is None:
            return None
        left = self.budget * (1 - _RESERVE) - self.seconds
        return self.seconds + max(0.0, left) * _SHARES[name.partition(":")[0]]


def _plain(batch: Batch) -> dict[str, Any]:
    """A batch as it is kept in a checkpoint."""
    return {"inputs": batch.inputs, "targets": batch.targets}


def _rng(seed: int, key: str, device: torch.device) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
