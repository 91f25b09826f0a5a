"""Runs a plan from teacher to files. Long phases are generators of beats, so progress, budget, checkpoints and stops are handled once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zsq import events
from zsq._compose import choose_evaluator, compose
from zsq._manager import Manager
from zsq._plan import Plan
from zsq._recipe import Recipe
from zsq._run import failures
from zsq._run import report as reporting
from zsq._run.checkpoints import CheckpointFolder, Phases, checkpoint_folder
from zsq._run.evaluation import Evaluation, images_to_measure
from zsq._run.folder import RunFolder
from zsq._run.logs import Logs
from zsq._run.lookup import finder, task_maker
from zsq._run.state import Phase, RunState
from zsq._run.stopping import Interrupted, LastGood, NotFinite, Stop, Watch
from zsq._run.stream import Stream, cadence_of
from zsq.errors import PlanError, ZsqError
from zsq.format import structure
from zsq.images import diversity
from zsq.protocols import Checked, Measuring, Staged
from zsq.teachers import to_channels_last
from zsq.training import Objective, Probe, Term, batch_norms, choose_precision
from zsq.types import Batch, Beat, Student, Teacher

Listener = Callable[[events.Event], None]


@dataclass(frozen=True)
class Finished:
    """The result of a run: its report, student and teacher, and the folder it was written to (None if nothing was written)."""

    report: Mapping[str, Any]
    student: Student
    teacher: Teacher
    folder: Path | None


def run(plan: Plan | Recipe, folder: Path | str | None = None, *, manager: Manager | None = None, listeners: Sequence[Listener] = (),
        trust_code: bool = False, cache: Path | None = None, stop: Stop | None = None,
        saved: Mapping[str, Any] | None = None, notes: Sequence[str] = ()) -> Finished:  # fmt: skip
    """Run a plan (or compose a recipe first) and write its run folder.

    Checkpoints are kept in ``FOLDER.checkpoint`` while it runs. To resume, with the same bits as an uninterrupted run:
    ``plan, saved = zsq._run.checkpoints.reopen(folder, manager)``, then ``run(plan, folder, saved=saved)``.

    Args:
        plan: What to run.
        folder: Where the finished run goes; it appears there whole or not at all. None writes nothing.
        manager: The plugins that hear events; discovered if None.
        listeners: Called with every event.
        trust_code: Allow weights files that contain code.
        cache: Where pools are kept for later runs; None keeps nothing.
        stop: Asked between two steps whether to stop.
        saved: The checkpoint to resume from.
        notes: Messages to show at the beginning.

    Raises:
        ZsqError: With what, where and a hint; ``folder`` is then as it was before.
    """
    manager = manager or Manager.discover()
    if isinstance(plan, Recipe):
        plan = compose(plan, manager)
    target = Path(folder) if folder is not None else None
    with RunFolder(target, adopt=saved["scratch"] if saved else "") as out:
        return _Engine(plan, out, manager, (*listeners, manager.emit), trust_code, cache, stop or Stop(), saved).run(notes)


class _Engine:
    """Runs the phases of one plan. What they make is in ``state``."""

    def __init__(self, plan: Plan, out: RunFolder, manager: Manager, listeners: Sequence[Listener], trust_code: bool,
                 cache: Path | None, stop: Stop, saved: Mapping[str, Any] | None) -> None:  # fmt: skip
        self.plan, self.out, self.manager, self.listeners, self.stop = plan, out, manager, listeners, stop
        self.logs: Logs | None = None
        before = saved["seconds"] if saved else 0.0
        self.state = RunState(plan=plan, out=out, log=self.say, finder=finder(manager), trust_code=trust_code, cache=cache, before=before)
        folder = checkpoint_folder(out.target) if out.target is not None else None
        self.phases = Phases(self.state, CheckpointFolder(folder, plan.run.checkpoint, self.say), saved)

    def say(self, text: str) -> None:
        self.emit(events.Message(self.state.seconds, text))

    def emit(self, event: events.Event) -> None:
        for listener in self.listeners:
            listener(event)
        if self.logs is not None:
            self.logs(event)

    def run(self, notes: Sequence[str] = ()) -> Finished:
        """Run all phases; turn whatever ends the run early into an error with a next step."""
        state, phases = self.state, self.phases
        try:
            return self.work(notes)
        except Interrupted:
            raise
        except NotFinite as fault:
            phases.checkpoints.clear()  # a resumed run would fail in the same way
            raise failures.with_hint(fault, state) from None
        except KeyboardInterrupt:
            if phases.resumable:
                raise self.interrupted() from None
            phases.checkpoints.clear()
            raise
        except BaseException as error:  # SystemExit too: the checkpoint must stay usable, whatever ends the run
            again = state.command if phases.resumable else ""
            if not again:
                phases.checkpoints.clear()
            if failures.is_out_of_memory(error):
                raise failures.out_of_memory(state, again) from error
            if again:
                self.say(f"the finished work is kept: {again} resumes it")
            raise
        finally:
            if self.logs is not None:
                self.logs.close()

    def interrupted(self, what: str = "stopped") -> ZsqError:
        self.out.left = True
        return Interrupted(what, "", f"{self.state.command} resumes it")

    def work(self, notes: Sequence[str] = ()) -> Finished:
        """All phases in their order."""
        state, plan = self.state, self.plan
        self.logs = Logs(plan.logs, state.context(), self.out.target)
        self.emit(events.RunStarted(state.seconds, plan.describe(), self.out.target))
        for note in notes:
            self.say(note)
        self.phases.begin()
        teacher = state.teacher = self.phase(Phase("teacher", plan.teacher), self.load_teacher)
        check_teacher(plan, teacher)
        evaluation = self.evaluation(teacher)
        objective = state.objective = Objective([Term(c.name, state.build(c, f"loss:{c.name}"), c.weight, c.needs) for c in plan.losses])
        student, stream = self.student_and_stream(teacher, objective)
        for index, choice in enumerate(plan.calibrators):
            calibrator = state.build(choice, f"calib:{index}")
            phase = Phase(f"calibrate:{choice.name}", choice, calibrator)
            self.beats(phase, partial(calibrator.fit, student, stream), calibrated=index + 1 == len(plan.calibrators))
        if plan.run.calibrated:
            measure = partial(self.phase, Phase("evaluate:calibrated"), lambda: evaluation.calibrated(student, state.context()))
            state.calibrated = self.phases.keep("calibrated", measure)
        tuner = state.build(plan.tuner, "tune", schedule=state.budget)
        tune = Phase(f"tune:{plan.tuner.name}", plan.tuner, tuner)
        state.steps = self.beats(tune, partial(tuner.fit, student, stream, objective))
        self.phases.enter(Phase("evaluate"))
        student.freeze()
        makes_images = "images" in plan.synth.provides
        metrics, own, images = self.phase(Phase("evaluate"), lambda: self.evaluate(evaluation, stream, student, makes_images))
        report = reporting.build(state, student, metrics, own, images)
        if self.out.scratch is not None:
            shown = partial(stream.sample, 64) if makes_images else None
            self.phase(Phase("export"), lambda: self.export(student, report, shown))
            report = reporting.finish(report, state, self.out.scratch)
            ctx = state.context(sampler=stream.sample if makes_images else None)
            self.emit(events.Publishing(state.seconds, report, self.out.scratch, ctx, evaluation.details))
            self.out.publish()
            self.phases.checkpoints.clear()
        self.emit(events.RunEnded(state.seconds, report))
        return Finished(report, student, teacher, self.out.target)

    def load_teacher(self) -> Teacher:
        source = self.state.build(self.plan.teacher, "teacher", task=task_maker(self.plan.task))
        teacher: Teacher = source.load(self.plan.ref)
        to_channels_last(teacher.module.eval().requires_grad_(False), self.state.device)
        return teacher

    def evaluation(self, teacher: Teacher) -> Evaluation:
        """The chosen evaluators, and the teacher's own if none was chosen; their files are checked before any work."""
        choices = list(self.plan.evaluators)
        if self.plan.default_eval and teacher.evaluation:
            choices.append(choose_evaluator(teacher.evaluation, self.manager))
        built = {choice.name: self.state.build(choice, f"eval:{choice.name}") for choice in choices}
        for evaluator in built.values():
            if isinstance(evaluator, Checked):
                evaluator.check(self.state.context())
        return Evaluation(built, {choice.name for choice in choices if choice.component.compares})

    def student_and_stream(self, teacher: Teacher, objective: Objective) -> tuple[Student, Stream]:
        """Quantize, and prepare the synthesizer: before it, if the quantizer needs a pool of images, otherwise after it."""
        state, plan = self.state, self.plan
        alone = not plan.synth.alternates  # the synthesizer makes its images without a student
        precision = choose_precision(plan.run.precision, state.device) if alone else state.precision
        synth = state.synth = state.build(plan.synth, "synth", precision=precision)
        quant = state.build(plan.quant, "quant")

        def prepare(student: Student | None) -> None:
            if isinstance(synth, Staged):
                self.beats(Phase("prepare", plan.synth, synth), partial(synth.prepare, Probe(teacher, precision, student)))

        pool = None
        if needs_pool := "pool" in plan.quant.needs:
            prepare(None)
            pool = Batch(**self.phases.keep("pool", lambda: _plain(synth.sample(len(synth.pool)))))
            if isinstance(quant, Measuring):  # all of it or nothing: the budget limits later phases, not this one
                measure = Phase("measure", plan.quant, quant)
                self.beats(measure, partial(quant.prepare, teacher, pool), len(pool), limited=False, again=True)
        student: Student = self.phase(Phase("quantize", plan.quant, quant), lambda: quant.quantize(teacher, pool))
        state.student, state.last_good = student, LastGood(student)
        if not needs_pool:
            prepare(None if alone else student)
        also = objective.needs if cadence_of(synth).reuse else frozenset[str]()
        state.probe = Probe(teacher, state.precision, student, also)
        state.stream = Stream(synth, state.probe, student, plan.run.batch_size)
        return student, state.stream

    def evaluate(
        self, evaluation: Evaluation, stream: Stream, student: Student, makes_images: bool
    ) -> tuple[dict[str, float], dict[str, float], Any]:
        """Metrics of the student, those of the teacher, and the diversity of the images if there are any."""
        ctx = self.state.context(sampler=stream.sample)
        metrics, own = evaluation.both(student, ctx)
        probe = Probe(ctx.teacher, ctx.precision)
        images = diversity(images_to_measure(stream, ctx.teacher.inputs), ctx.teacher, probe) if makes_images else None
        return metrics, own, images

    def export(self, student: Student, report: dict[str, Any], draw: Callable[[], Batch] | None) -> None:
        folder, teacher = self.out.scratch, self.state.teacher
        assert folder is not None and teacher is not None
        for choice in self.plan.exporters:
            self.state.build(choice, f"export:{choice.name}").export(student, reporting.manifest(report), folder)
        reporting.write_recipe(folder, self.plan.lasting, report)
        if draw is not None:
            reporting.write_images(folder, draw(), teacher.inputs)

    def phase(self, phase: Phase, work: Callable[[], Any]) -> Any:
        """Run ``work`` as a timed phase without steps."""
        self.state.phase = phase
        start = self.state.seconds
        self.emit(events.PhaseStarted(start, phase.name))
        try:
            return work()
        finally:
            self.state.timings.append({"name": phase.name, "seconds": round(self.state.seconds - start, 3)})
            self.emit(events.PhaseEnded(self.state.seconds, phase.name))

    def beats(self, phase: Phase, start: Callable[[], Iterable[Beat]], images: int = 0, *, limited: bool = True,
              calibrated: bool = False, again: bool = False) -> int:  # fmt: skip
        """Run a phase with steps; returns their number. Between two steps the run may write a checkpoint, and may be stopped.

        Args:
            phase: The phase.
            start: Returns the generator of beats.
            images: In one step; 0 means the batch size of the run.
            limited: Whether the budget limits the phase.
            calibrated: The student's activations must have ranges afterwards.
            again: Run it also while a resumed run skips phases.

        Raises:
            NotFinite: If a metric, or a parameter or range of the student, is NaN or Inf.
            Interrupted: If the user stopped the run.
        """
        state, phases, budget, name = self.state, self.phases, self.state.budget, phase.name
        budget.begin(name if limited else "")
        if not phases.enter(phase, again):
            return 0
        if phases.skipping:
            budget.begin()
        began, count, total, stopped = phases.started, 0, 0, False
        form = structure(state.student) if state.student is not None else ""
        iterator: Iterator[Beat] = iter(start())
        watch = Watch(name, state.last_good)
        self.emit(events.PhaseStarted(began, name))
        try:
            with self.stop.between_steps():
                for beat in iterator:
                    count, total = beat.step, beat.total
                    made = state.stream.metrics if state.stream else {}
                    self.emit(events.Stepped(state.seconds, name, count, total, beat.metrics, images or self.plan.run.batch_size, made))
                    watch(beat, made)
                    written = phases.stepped(count, last=self.stop.requested)
                    if self.stop.requested:
                        if not phases.resumable:
                            raise KeyboardInterrupt
                        kept = "" if written else f"; {name} saves no state of its own and starts again"
                        raise self.interrupted(f"stopped at step {count} of {name}{kept}")
                    if budget.over:
                        stopped = count < total
                        break
        finally:
            if isinstance(iterator, Generator):
                iterator.close()
        if not phases.skipping:
            watch.finish(count, calibrated)
        state.stopped |= stopped or budget.rescaled is not None
        phases.student_changed(form)
        state.timings.append({"name": name, "seconds": round(state.seconds - began, 3), "steps": count, "total": total})
        self.emit(events.PhaseEnded(state.seconds, name, stopped))
        return count


def check_teacher(plan: Plan, teacher: Teacher) -> None:
    """Refuse components that need something this teacher does not have, before any training."""
    if teacher.task.name != plan.task.component.name:
        what = f"the source declares the teacher's task as '{plan.task.name}', but it is '{teacher.task.name}'"
        raise PlanError(what, f"teacher {teacher.ref}", f"set it: --set teacher.task={teacher.task.name}, if the source has this option")
    if batch_norms(teacher.module):
        return
    for choice in (plan.synth, plan.quant, *plan.calibrators, *plan.losses):
        if "teacher.bn" in choice.needs:
            raise PlanError(
                f"'{choice.name}' needs teacher.bn, but the teacher has no BatchNorm layer",
                f"teacher {teacher.ref}",
                "use components without that need (`zsq show NAME`), e.g. --synth noise --calib mean-image-max --loss kd",
            )


def _plain(batch: Batch) -> dict[str, Any]:
    """A batch as plain values for a checkpoint."""
    return {"inputs": batch.inputs, "targets": batch.targets}
