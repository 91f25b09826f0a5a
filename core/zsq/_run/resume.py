"""Checkpoints that a run goes on from: the last two, each written whole or not at all and checked when it is read."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, fx, nn

from zsq._recipe import Recipe
from zsq._run import state
from zsq._run.checkpoint import beside
from zsq._run.folder import MARK
from zsq.errors import FileError
from zsq.files import write_atomic
from zsq.protocols import Alternating, KeepsState, Resumable, Staged
from zsq.types import QuantPoint, Say, Student

if TYPE_CHECKING:
    from zsq._manager import Manager
    from zsq._plan import Plan

FORMAT = 1
#: How many checkpoints are kept.
KEPT = 2
#: Seconds between two checkpoints are at least so many times what writing one takes: a hundredth of the time at most.
TIMES = 100.0
#: The name has the number of the checkpoint and the checksum of all of its bytes.
_NAME = re.compile(r"state-(\d{6})-([0-9a-f]{32})\.safetensors")


class Checkpoints:
    """Writes ``state-NUMBER-CHECKSUM.safetensors`` into ``folder`` and keeps the last two.

    A disk that refuses ends no run: it is said once, and tried again when the next checkpoint is due.

    Args:
        folder: ``OUT.checkpoint``, see :func:`zsq._run.checkpoint.beside`; None writes nothing.
        interval: Seconds between two checkpoints within a phase; 0 writes one at every step and every phase, whatever it takes.
        log: Told once when a checkpoint cannot be written.
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
        """Write one, and remove all but the last two; whether there is one now."""
        if self.folder is None:
            return False
        began = time.monotonic()
        content = state.dump(value)
        name = f"state-{self._number:06}-{_checksum(content)}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / name, content)
            for _, path in found(self.folder)[KEPT:]:
                path.unlink(missing_ok=True)
        except (OSError, FileError) as error:
            if not self._failed:
                why = error.what if isinstance(error, FileError) else error
                self.log(f"no checkpoint could be written ({why}): stopped now, the run would begin anew")
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
        """Remove all that there are, and the folder if nothing else is in it."""
        if self.folder is not None:
            clear(self.folder)


def clear(folder: Path) -> None:
    """Remove every checkpoint in ``folder``, also half-written ones, and the folder itself where nothing else is in it."""
    if not folder.is_dir():
        return
    for path in [*(path for _, path in found(folder)), *folder.glob(".state-*.tmp")]:
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def found(folder: Path) -> list[tuple[int, Path]]:
    """Number and path of the checkpoints in ``folder``, the newest first; none where there is no such folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(((int(match[1]), path) for path in paths if (match := _NAME.fullmatch(path.name))), reverse=True)


def reopen(folder: Path, manager: Manager, saved: dict[str, Any] | None = None) -> tuple[Plan, dict[str, Any]]:
    """The plan of a run in ``folder`` that was stopped, killed or cut off, and its last checkpoint (``saved``, where it is read already).

    Raises:
        ZsqError: When there is no checkpoint that is whole, or what the run is made of is here no more.
    """
    from zsq._compose import compose

    saved = saved or read(beside(folder))
    return compose(recipe_of(saved, folder), manager), saved


def recipe_of(saved: Mapping[str, Any], folder: Path) -> Recipe:
    """The recipe in a checkpoint of a run in ``folder``."""
    return Recipe.from_dict(saved["recipe"], str(beside(folder)))


def read(folder: Path) -> dict[str, Any]:
    """The newest checkpoint in ``folder`` that is whole, with ``notes`` on those that are not.

    Raises:
        FileError: When there is none.
    """
    checkpoints = found(folder)
    notes: list[str] = []
    for number, path in checkpoints:
        value = _read(path)
        if value is not None:
            if value.get("format") != FORMAT:
                raise FileError(f"a checkpoint of format {value.get('format')}, but this zsq reads {FORMAT}", str(path), "update zsq")
            return {**value, "notes": notes}
        notes.append(f"checkpoint {number} is damaged: going back to the one before")
    run = folder.with_name(folder.name.removesuffix(".checkpoint"))
    if not checkpoints and (run / MARK).is_file():
        raise FileError(f"'{run}' is finished: there is nothing to go on with", "--resume", f"look at it with `zsq eval {run}`")
    what = "every checkpoint is damaged" if checkpoints else "there is no checkpoint to go on from"
    raise FileError(what, str(folder), "start the run anew, without --resume")


def _read(path: Path) -> dict[str, Any] | None:
    """A checkpoint, or None where its bytes are not those that were written."""
    match = _NAME.fullmatch(path.name)
    try:
        content = path.read_bytes()
        if match is None or _checksum(content) != match[2]:
            return None
        value = state.parse(content)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    return value if isinstance(value, dict) else None


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


# -- the student -------------------------------------------------------------------------------------------------------


def student_state(student: Student) -> dict[str, Any]:
    """All that may have changed in a student since it was quantized: tensors, ranges, what its points keep beside, and modes."""
    module = student.module
    tensors = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    return {
        "structure": structure(student),
        "tensors": {**tensors, **dict(module.named_buffers())},
        "parameters": [name for name, _ in module.named_parameters()],
        "moving": [name for name, parameter in module.named_parameters() if parameter.requires_grad],
        "training": [path for path, child in module.named_modules() if child.training],
        "points": {path: kept for path, point in student.points.items() if (kept := _point_state(point))},
    }


def restore_student(student: Student, kept: Mapping[str, Any]) -> None:
    """Make a student that was just quantized what :func:`student_state` was given.

    Raises:
        FileError: When the two have not the same layers and operations.
    """
    module = student.module
    try:
        if kept["structure"] != structure(student):
            raise ValueError
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, value in kept["tensors"].items():
            if name not in own or own[name].shape != value.shape:  # the bias or learned range that a component added
                _put(module, name, value, name in kept["parameters"])
        module.load_state_dict({name: kept["tensors"][name] for name in module.state_dict() if name in kept["tensors"]}, strict=False)
        buffers = dict(module.named_buffers())
        with torch.no_grad():
            for name in buffers.keys() & kept["tensors"].keys():  # also those that are in no state_dict
                buffers[name].copy_(kept["tensors"][name])
    except (AttributeError, KeyError, ValueError, RuntimeError):
        hint = "start the run anew, without --resume"
        raise FileError("the checkpoint is of another student", "the quantizer, which gave another one this time", hint) from None
    for path, values in kept["points"].items():
        _restore_point(student.points[path], values)
    moving, training = set(kept["moving"]), set(kept["training"])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in moving)
    for path, child in module.named_modules():
        child.training = path in training


def structure(student: Student) -> str:
    """A checksum of which modules there are and, of a graph, how they are called: of everything but values."""
    module = student.module
    lines = [f"{path} {type(child).__name__}" for path, child in module.named_modules()]
    code = str(module.code) if isinstance(module, fx.GraphModule) else ""
    return hashlib.sha256("\n".join([*lines, code]).encode()).hexdigest()


def _point_state(point: QuantPoint) -> dict[str, Any]:
    if isinstance(point, KeepsState):
        return dict(point.kept_state())
    if isinstance(point, nn.Module):
        return {}
    lo, hi = point.range
    return {"range": (lo, hi)} if bool(lo.isfinite().all()) and bool(hi.isfinite().all()) else {}


def _restore_point(point: QuantPoint, values: Mapping[str, Any]) -> None:
    if isinstance(point, KeepsState):
        point.load_kept_state(values)
    elif "range" in values:
        point.set_range(*values["range"])


def _put(module: nn.Module, name: str, value: Tensor, parameter: bool) -> None:
    owner_path, _, attribute = name.rpartition(".")
    owner = module.get_submodule(owner_path)
    value = value.to(next(module.parameters(), value).device)
    if parameter:
        setattr(owner, attribute, nn.Parameter(value.clone()))
    elif attribute in dict(owner.named_buffers(recurse=False)):
        setattr(owner, attribute, value.clone())
    else:
        owner.register_buffer(attribute, value.clone())


# -- components --------------------------------------------------------------------------------------------------------


def kept_whole(synth: Any) -> bool:
    """Whether all there is to know of a synthesizer at any time can be kept: its state, or where it never works ahead its random
    generator alone."""
    return isinstance(synth, Resumable) or not isinstance(synth, (Staged, Alternating))


def place(value: Mapping[str, Any]) -> str:
    """Where a run was, in words."""
    return f"step {value['step']} of {value['phase']}" if value["step"] else f"the beginning of {value['phase'] or 'the run'}"
