"""Where a run is in its plan, what it takes to be there again, and when that is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from zsq._plan import pins
from zsq._run import resume
from zsq._run.report import pinned
from zsq.errors import ZsqError
from zsq.protocols import Resumable


class Journal:
    """Counts the phases of one run; writes checkpoints, and brings a run that goes on to where it was.

    A phase whose component is :class:`~zsq.protocols.Resumable` goes on at the step where it was; any other is begun again, from
    the state that everything had at its beginning. Phases before are passed over, but for those that change which layers and
    operations the student has: these are repeated, and the values of all tensors are then put in place.

    Args:
        engine: Whose run it is.
        checkpoints: Where they are written.
        saved: The checkpoint that the run goes on from.
    """

    def __init__(self, engine: Any, checkpoints: resume.Checkpoints, saved: Mapping[str, Any] | None = None) -> None:
        self.engine, self.checkpoints, self.saved = engine, checkpoints, saved
        self.at, self.name = 0, ""
        self.worker: Any = None
        self.started = 0.0
        self.rngs: dict[str, torch.Generator] = {}
        self.kept: dict[str, Any] = dict(saved["kept"]) if saved else {}
        self.changed: list[int] = list(saved["changed"]) if saved else []
        self.synth: Any = None
        self.stands = saved is not None and saved["at"] > 0  # whether there is a checkpoint of more than the run's beginning

    @property
    def passing(self) -> bool:
        """Whether the run is still on its way to where it was."""
        return self.saved is not None and self.at < self.saved["at"]

    def begin(self) -> None:
        """Write down that the run began; say what there is to say of the one that it goes on with, or takes the place of."""
        if self.saved is not None:
            for note in (*self.saved["notes"], f"going on at {resume.place(self.saved)}"):
                self.engine.ctx.log(note)
            here = pins(self.engine.plan)
            for name, version in self.saved["pins"].items():
                if here.get(name) != version:
                    self.engine.ctx.log(f"the run began with {name} {version}, here is {here.get(name)}: other bits are possible")
            if (threads := torch.get_num_threads()) != self.saved["threads"]:
                self.engine.ctx.log(f"the run began with {self.saved['threads']} threads, here are {threads}: other bits are possible")
            return
        if (folder := self.checkpoints.folder) is not None and resume.found(folder):
            self.engine.ctx.log(f"an unfinished run is replaced; {self.engine.command} would have gone on with it")
            resume.clear(folder)
        self.write(0)

    def enter(self, name: str, worker: Any = None, again: bool = False) -> bool:
        """Begin a phase; whether there is something to do in it. Where the run was left in it, everything is put back first.

        Args:
            name: Of the phase.
            worker: The component whose phase it is, where it is not the synthesizer.
            again: Also run it on the way to a later phase.
        """
        self.at, self.name, self.worker = self.at + 1, name, worker
        self.started = self.engine.seconds
        if self.passing:
            if name == "prepare":  # a later phase that is repeated may draw images
                self._restore_synth()
            return again or self.at in self.changed
        if self.saved is not None and self.at == self.saved["at"]:
            self._arrive(self.saved)
        elif self.checkpoints.due(phase=True):
            self.write(0)
        return True

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives; on the way to where the run was, what it gave then. Tensors and plain values."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def stepped(self, step: int, last: bool = False) -> bool:
        """After a step: write a checkpoint if one is due, or, with ``last``, in any case; whether there is one of this step."""
        if self.passing or not (self.worker is None or isinstance(self.worker, Resumable)):
            return False
        return (last or self.checkpoints.due()) and self.write(step)

    def write(self, step: int) -> bool:
        """Write a checkpoint of the present state; whether that was possible."""
        engine = self.engine
        if self.checkpoints.folder is None or not (self.at == 0 or self.synth is None or resume.kept_whole(self.synth)):
            return False
        student = engine.student
        try:
            written = self.checkpoints.write(
                {
                    "format": resume.FORMAT,
                    "recipe": pinned(engine.plan.recipe, engine.ctx.teacher.ref if engine.ctx.teacher else "").to_dict(),
                    "pins": pins(engine.plan),
                    "threads": torch.get_num_threads(),
                    "teacher": engine.ctx.teacher.fingerprint if engine.ctx.teacher else "",
                    "scratch": engine.out.scratch.name if engine.out.scratch is not None else "",
                    "at": self.at,
                    "phase": self.name,
                    "step": step,
                    "seconds": engine.seconds,
                    "started": self.started,
                    "pace": engine.pace.state_dict(),
                    "phases": engine.phases,
                    "steps": engine.steps,
                    "stopped": engine.stopped,
                    "changed": self.changed,
                    "kept": self.kept,
                    "random": {name: rng.get_state() for name, rng in self.rngs.items()},
                    "synth": self.synth.state_dict() if isinstance(self.synth, Resumable) else {},
                    "pulls": engine.stream.pulls if engine.stream else 0,
                    "student": resume.student_state(student) if student is not None else None,
                    "worker": self.worker.state_dict() if step and isinstance(self.worker, Resumable) else None,
                }
            )
        except TypeError as error:
            raise ZsqError(
                f"the state of a component cannot be kept: {error}", f"phase {self.name}", "see Resumable in CONTRIBUTING"
            ) from None
        self.stands |= written and (self.at > 1 or step > 0)
        return written

    def _arrive(self, saved: Mapping[str, Any]) -> None:
        """Put everything where it was."""
        engine = self.engine
        if saved["teacher"] != engine.ctx.teacher.fingerprint and saved["at"] > 0:
            raise ZsqError("the teacher is another than the one that the run began with", engine.plan.ref, "start the run anew")
        if saved["student"] is not None:
            resume.restore_student(engine.student, saved["student"])
            engine.good.keep(saved["phase"], saved["step"])
        self._restore_synth()
        if engine.stream is not None:
            engine.stream.pulls = saved["pulls"]
        if saved["worker"] is not None:
            self.worker.load_state_dict(saved["worker"])
        for name, state in saved["random"].items():
            self.rngs[name].set_state(state)
        self.started = saved["started"]
        engine.pace.load_state_dict(saved["pace"])
        engine.phases, engine.steps, engine.stopped = list(saved["phases"]), saved["steps"], saved["stopped"]

    def _restore_synth(self) -> None:
        assert self.saved is not None
        if isinstance(self.synth, Resumable):
            self.synth.load_state_dict(self.saved["synth"])
