"""Checkpoints: the state of a run, written to ``OUT.checkpoint`` while it goes on, so that it can be resumed with the same bits."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zsq._compose import compose
from zsq._plan import Plan, pins
from zsq._recipe import Recipe
from zsq._run.folder import MARK
from zsq._run.report import pinned
from zsq._run.state import Phase, RunState
from zsq.errors import FileError, ZsqError
from zsq.files import write_atomic
from zsq.format import restore_student, structure, student_state
from zsq.protocols import Alternating, Resumable, Staged
from zsq.types import Say

if TYPE_CHECKING:
    from zsq._manager import Manager

FORMAT = 2
#: How many checkpoints are kept.
KEPT = 2
#: The seconds between two checkpoints are at least so many times the duration of writing one: 1 % of the time at most.
TIMES = 100.0
#: A file name holds the number of the checkpoint and the checksum of all its bytes.
_NAME = re.compile(r"state-(\d{6})-([0-9a-f]{32})\.pt")


# -- files -------------------------------------------------------------------------------------------------------------


class CheckpointFolder:
    """Writes ``state-NUMBER-CHECKSUM.pt`` into ``folder`` and keeps the last two.

    A disk that refuses ends no run: one message says so, and the next checkpoint is tried again.

    Args:
        folder: ``OUT.checkpoint``; None writes nothing.
        interval: Seconds between two checkpoints within a phase; 0 writes one at every step and every phase.
        log: Gets the message if a checkpoint cannot be written.
    """

    def __init__(self, folder: Path | None, interval: float, log: Say) -> None:
        self.folder, self.interval, self.log = folder, interval, log
        self._number = 1 + max((number for number, _ in found(folder)), default=0) if folder is not None else 0
        self._last, self._cost, self._failed = -float("inf"), 0.0, False

    def due(self, phase: bool = False) -> bool:
        """Whether it is time for a checkpoint: between two steps, or at the beginning of a ``phase``."""
        if self.folder is None or not self.interval:
            return self.folder is not None
        return time.monotonic() - self._last >= max(0.0 if phase else self.interval, TIMES * self._cost)

    def write(self, value: Mapping[str, Any]) -> bool:
        """Write one and remove all but the last two; whether it was written.

        Raises:
            TypeError: If ``value`` holds something else than tensors and plain values.
        """
        if self.folder is None:
            return False
        began = time.monotonic()
        content = dump(value)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / f"state-{self._number:06}-{_checksum(content)}.pt", content)
            for _, path in found(self.folder)[KEPT:]:
                path.unlink(missing_ok=True)
        except (OSError, FileError) as error:
            if not self._failed:
                why = error.what if isinstance(error, FileError) else error
                self.log(f"no checkpoint could be written ({why}): if the run stops now, it must start again from the beginning")
            self._failed = True
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()
            return False
        finally:
            self._last = time.monotonic()
            self._cost = self._last - began
        self._number += 1
        self._failed = False
        return True

    def clear(self) -> None:
        """Remove every checkpoint, half-written ones too, and the folder itself if nothing else is in it."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in [*(path for _, path in found(self.folder)), *self.folder.glob(".state-*.tmp")]:
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def checkpoint_folder(target: Path) -> Path:
    """Where the checkpoints of a run in ``target`` go: ``TARGET.checkpoint``."""
    return target.with_name(f"{target.name}.checkpoint")


def found(folder: Path) -> list[tuple[int, Path]]:
    """Number and path of the checkpoints in ``folder``, newest first."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(((int(match[1]), path) for path in paths if (match := _NAME.fullmatch(path.name))), reverse=True)


def reopen(target: Path, manager: Manager, saved: dict[str, Any] | None = None) -> tuple[Plan, dict[str, Any]]:
    """The plan of an unfinished run in ``target`` and its last good checkpoint (``saved``, if it was read already).

    Raises:
        ZsqError: If no checkpoint is intact, or a component of the run is not installed.
    """
    saved = saved or read(target)
    return compose(recipe_of(saved, target), manager), saved


def recipe_of(saved: Mapping[str, Any], target: Path) -> Recipe:
    """The recipe in a checkpoint of the run in ``target``."""
    return Recipe.from_dict(saved["recipe"], str(checkpoint_folder(target)))


def read(target: Path) -> dict[str, Any]:
    """The newest intact checkpoint of the run in ``target``, with ``notes`` on damaged ones.

    Raises:
        FileError: If there is none.
    """
    folder = checkpoint_folder(target)
    notes: list[str] = []
    for number, path in found(folder):
        value = _read(path)
        if value is not None:
            if value.get("format") != FORMAT:
                raise FileError(f"a checkpoint of format {value.get('format')}, but this zsq reads {FORMAT}", str(path), "update zsq")
            return {**value, "notes": notes}
        notes.append(f"checkpoint {number} is damaged: the one before is used")
    if not notes and (target / MARK).is_file():
        raise FileError(f"'{target}' is finished: there is nothing to resume", "--resume", f"look at it with `zsq eval {target}`")
    what = "every checkpoint is damaged" if notes else "there is no checkpoint to resume from"
    raise FileError(what, str(folder), "start the run again, without --resume")


def _read(path: Path) -> dict[str, Any] | None:
    """A checkpoint, or None if its bytes are not those that were written."""
    match = _NAME.fullmatch(path.name)
    try:
        content = path.read_bytes()
        if match is None or _checksum(content) != match[2]:
            return None
        value = parse(content)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError, EOFError):
        return None
    return value if isinstance(value, dict) else None


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def dump(value: Any) -> bytes:
    """``value`` as bytes: mappings, lists and tuples of tensors, texts, numbers, truth values and None. Tensors keep type and strides.

    Raises:
        TypeError: With the place of anything else.
    """
    buffer = io.BytesIO()
    torch.save(_plain(value, "", set()), buffer)
    return buffer.getvalue()


def parse(content: bytes) -> Any:
    """What :func:`dump` was given; tensors are on the CPU. Runs no code from the content."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _plain(value: Any, where: str, storages: set[int]) -> Any:
    """``value`` with every tensor on the CPU, in a storage of its own that holds nothing else."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        storage = value.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != value.nbytes:
            value = value.clone()
        storages.add(value.untyped_storage().data_ptr())
        return value
    if isinstance(value, Mapping):
        return {_plain(key, where, storages): _plain(item, f"{where}.{key}", storages) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{where}.{index}", storages) for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"a {type(value).__name__} at '{where.lstrip('.')}' is neither a tensor nor a plain value")


# -- the run -----------------------------------------------------------------------------------------------------------


class Phases:
    """Counts the phases of one run, writes its checkpoints, and brings a resumed run back to where it was.

    A phase whose component is :class:`~zsq.protocols.Resumable` continues at the step of the checkpoint; any other phase is repeated
    from its beginning. Earlier phases are skipped, except those that change the layers or operations of the student: they are repeated,
    and then all tensors are restored.

    Args:
        state: Of the run.
        checkpoints: Where checkpoints are written.
        saved: The checkpoint to resume from.
    """

    def __init__(self, state: RunState, checkpoints: CheckpointFolder, saved: Mapping[str, Any] | None = None) -> None:
        self.state, self.checkpoints, self.saved = state, checkpoints, saved
        self.number = 0
        self.started = 0.0
        self.kept: dict[str, Any] = dict(saved["kept"]) if saved else {}
        self.changed: list[int] = list(saved["changed"]) if saved else []
        self.resumable = saved is not None and saved["number"] > 0  # whether a checkpoint holds more than the run's beginning

    @property
    def skipping(self) -> bool:
        """Whether a resumed run has not yet reached the phase of its checkpoint."""
        return self.saved is not None and self.number < self.saved["number"]

    def begin(self) -> None:
        """Write the first checkpoint; say what is different for a resumed run, or that an unfinished run is replaced."""
        log = self.state.log
        if (saved := self.saved) is not None:
            step, phase = saved["step"], saved["phase"] or "the run"
            for note in (*saved["notes"], f"resuming at {f'step {step} of {phase}' if step else f'the beginning of {phase}'}"):
                log(note)
            here = pins(self.state.plan)
            for name, version in saved["pins"].items():
                if here.get(name) != version:
                    log(f"the run began with {name} {version}, here is {here.get(name)}: the bits may differ")
            if (threads := torch.get_num_threads()) != saved["threads"]:
                log(f"the run began with {saved['threads']} threads, here are {threads}: the bits may differ")
            return
        if (folder := self.checkpoints.folder) is not None and found(folder):
            log(f"an unfinished run is replaced; {self.state.command} would have resumed it")
            self.checkpoints.clear()
        self.write(0)

    def enter(self, phase: Phase, again: bool = False) -> bool:
        """Begin a phase; whether to run it. In the phase of the checkpoint, everything is restored first.

        Args:
            phase: The phase.
            again: Run it also while skipping.
        """
        self.number += 1
        self.state.phase, self.started = phase, self.state.seconds
        if self.skipping:
            if phase.worker is self.state.synth:  # a later phase that is repeated may draw images
                self._restore_synth()
            return again or self.number in self.changed
        if self.saved is not None and self.number == self.saved["number"]:
            self._restore(self.saved)
        elif self.checkpoints.due(phase=True):
            self.write(0)
        return True

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` returns (tensors and plain values); a resumed run gets the value of the checkpoint instead."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def stepped(self, step: int, last: bool = False) -> bool:
        """After a step: write a checkpoint if one is due, or always if it is the ``last``; whether it was written."""
        if self.skipping or not (self._worker is None or isinstance(self._worker, Resumable)):
            return False
        return (last or self.checkpoints.due()) and self.write(step)

    def student_changed(self, form: str) -> None:
        """After a phase: remember whether it changed the layers or operations of the student, whose form was ``form`` before it."""
        if self.state.student is not None and structure(self.state.student) != form and self.number not in self.changed:
            self.changed.append(self.number)

    def write(self, step: int) -> bool:
        """Write a checkpoint of the current state; whether that was possible."""
        state, synth, worker, teacher = self.state, self.state.synth, self._worker, self.state.teacher
        # A synthesizer that works ahead and keeps no state makes a checkpoint impossible; without work ahead, its random numbers are all.
        complete = isinstance(synth, Resumable) or not isinstance(synth, (Staged, Alternating))
        if self.checkpoints.folder is None or not (self.number == 0 or complete):
            return False
        try:
            written = self.checkpoints.write(
                {
                    "format": FORMAT,
                    "recipe": pinned(state.plan.recipe, teacher.ref if teacher else "").to_dict(),
                    "pins": pins(state.plan),
                    "threads": torch.get_num_threads(),
                    "teacher": teacher.fingerprint if teacher else "",
                    "scratch": state.out.scratch.name if state.out.scratch is not None else "",
                    "number": self.number,
                    "phase": state.phase.name if self.number else "",
                    "step": step,
                    "seconds": state.seconds,
                    "started": self.started,
                    "budget": state.budget.state_dict(),
                    "timings": state.timings,
                    "steps": state.steps,
                    "stopped": state.stopped,
                    "changed": self.changed,
                    "kept": self.kept,
                    "random": {name: rng.get_state() for name, rng in state.rngs.items()},
                    "synth": synth.state_dict() if isinstance(synth, Resumable) else {},
                    "pulls": state.stream.pulls if state.stream else 0,
                    "student": student_state(state.student) if state.student is not None else None,
                    "worker": worker.state_dict() if step and isinstance(worker, Resumable) else None,
                }
            )
        except TypeError as error:
            what = f"the state of a component cannot be saved: {error}"
            raise ZsqError(what, f"phase {state.phase.name}", "see Resumable in CONTRIBUTING") from None
        self.resumable |= written and (self.number > 1 or step > 0)
        return written

    @property
    def _worker(self) -> Any:
        """The component at work, unless it is the synthesizer, which is saved at any time."""
        return None if self.state.phase.worker is self.state.synth else self.state.phase.worker

    def _restore(self, saved: Mapping[str, Any]) -> None:
        state = self.state
        if state.teacher is not None and saved["teacher"] != state.teacher.fingerprint:
            raise ZsqError("the teacher differs from the one that the run began with", state.plan.ref, "start the run again")
        if saved["student"] is not None and state.student is not None and state.last_good is not None:
            restore_student(state.student, saved["student"])
            state.last_good.keep(saved["phase"], saved["step"])
        self._restore_synth()
        if state.stream is not None:
            state.stream.pulls = saved["pulls"]
        if saved["worker"] is not None:
            self._worker.load_state_dict(saved["worker"])
        for name, random in saved["random"].items():
            state.rngs[name].set_state(random)
        self.started = saved["started"]
        state.budget.load_state_dict(saved["budget"])
        state.timings, state.steps, state.stopped = list(saved["timings"]), saved["steps"], saved["stopped"]

    def _restore_synth(self) -> None:
        assert self.saved is not None
        if isinstance(self.state.synth, Resumable):
            self.state.synth.load_state_dict(self.saved["synth"])
