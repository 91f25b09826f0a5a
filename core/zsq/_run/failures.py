"""Messages of a run that failed: what to try next, and the last good student, which is written beside the run's folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from zsq._run import report as reporting
from zsq._run.folder import MARK, RunFolder
from zsq._run.state import RunState
from zsq._run.stopping import LastGood, NotFinite
from zsq.errors import FileError, ZsqError
from zsq.files import write_atomic
from zsq.options import Options
from zsq.protocols import Batched

#: Texts of libraries that have no error class of their own for this.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc", "bad allocation")


def last_good_folder(target: Path) -> Path:
    """Where the last good student of a run in ``target`` goes: ``TARGET.last-good``."""
    return target.with_name(f"{target.name}.last-good")


def with_hint(fault: NotFinite, state: RunState) -> NotFinite:
    """The error with a hint: what to try, and where the last good student is. That student is written beside the run's folder."""
    choice = state.phase.choice
    precise = "" if state.precision.name == "fp32" else " or --precision fp32"
    advice = f"try other components than '{choice.name}'{precise}" if choice else f"try other components{precise}"
    if choice and (rate := next(iter(choice.options.meaning("lr")), "")):
        advice = f"try a lower learning rate (--set {choice.role}.{rate}=...){precise}"
    fault.hint = f"{advice}; {_kept(fault, state)}"
    return fault


def _kept(fault: NotFinite, state: RunState) -> str:
    if (good := state.last_good) is None:
        return "there was no student yet to keep"
    when = f"the student of step {good.step} of {good.phase}"
    if state.out.target is None:
        return f"{when} was good, but without --out it is not kept"
    folder = last_good_folder(state.out.target)
    try:
        _write(folder, good, fault, state)
    except ZsqError as error:
        return f"{when} was good, but is not kept: {error.what}"
    return f"{when} is in {folder}"


def _write(folder: Path, good: LastGood, fault: NotFinite, state: RunState) -> None:
    """Write the student of ``good`` with a report and a recipe; all of it or nothing.

    The report has no metrics. Its ``last_good`` says when the student was copied and what stopped the run.

    Raises:
        ZsqError: If the student cannot be saved, or ``folder`` exists and holds something else.
    """
    if (folder / MARK).is_file() and not _is_last_good(folder):
        raise FileError(f"'{folder}' is a finished run", "--out", "choose another folder")
    from zsq._builtin.safetensors import Safetensors

    assert state.teacher is not None
    student = good.restore()
    student.freeze()
    report = reporting.build(state, student, {}, {}, None)
    report |= {"stopped": True, "last_good": {"phase": good.phase, "step": good.step, "why": fault.what}}
    with RunFolder(folder) as out:
        assert out.scratch is not None
        files = Safetensors(Options(), state.context()).export(student, reporting.manifest(report), out.scratch)
        report["student"]["size_bytes"] = files[0].stat().st_size
        reporting.write_recipe(out.scratch, state.plan.lasting, report)
        write_atomic(out.scratch / MARK, json.dumps(report, indent=1) + "\n")
        out.publish()


def _is_last_good(folder: Path) -> bool:
    try:
        return "last_good" in json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out: ``error`` says so, or one that came before it while a component cleaned up."""
    if error is None:
        return False
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    return said or is_out_of_memory(error.__context__)


def out_of_memory(state: RunState, resume: str = "") -> ZsqError:
    """The error to show, with a smaller batch size to try.

    Args:
        state: Of the run; its phase decides which batch size is named.
        resume: The command that resumes the run, in case another program took the memory.
    """
    choice, worker = state.phase.choice, state.phase.worker
    key, size = "run.batch_size", state.plan.run.batch_size
    if choice is not None:
        for option, value in choice.options.meaning("batch").items():
            if own := value or (worker.batch if isinstance(worker, Batched) else None):
                key, size = f"{choice.role}.{choice.name}.{option}" if choice.role.value == "calib" else f"{choice.role}.{option}", own
    hint = f"try --set {key}={size // 2}" if size > 1 else "a batch is one image already: use a machine with more memory"
    more = f", or {resume} if another program took the memory" if resume else ""
    return ZsqError(f"out of memory, with batches of {size} images", f"phase {state.phase.name}", hint + more)
