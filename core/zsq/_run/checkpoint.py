"""The folder that a run leaves when it has to stop: the last good student, as ``zsq eval`` and ``zsq.load`` read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zsq._run import report as reporting
from zsq._run.folder import MARK, RunFolder
from zsq._run.guard import LastGood, NotFinite
from zsq.errors import FileError, ZsqError
from zsq.files import write_atomic
from zsq.options import Options
from zsq.types import Student


def freeze(student: Student) -> None:
    """End all changes: codes and ranges as they stand are what is evaluated and saved."""
    for point in student.points.values():
        point.freeze()
    if student.finish is not None:
        student.finish()
    student.module.eval().requires_grad_(False)


def beside(target: Path) -> Path:
    """Where the checkpoint of a run in ``target`` goes: ``TARGET.checkpoint``."""
    return target.with_name(f"{target.name}.checkpoint")


def write(folder: Path, good: LastGood, fault: NotFinite, engine: Any) -> None:
    """Write the student of ``good`` with a report and a recipe; all of it or nothing.

    The report has no figures, and says under ``checkpoint`` when the student was copied and what stopped the run.

    Raises:
        ZsqError: When the student cannot be saved, or ``folder`` is there and is no checkpoint.
    """
    if (folder / MARK).is_file() and not _is_checkpoint(folder):
        raise FileError(f"'{folder}' is a finished run", "--out", "choose another folder")
    from zsq._builtin.safetensors import Safetensors

    student, ctx = good.restore(), engine.ctx
    freeze(student)
    report = reporting.build(engine.plan.lasting, ctx.teacher, student, {}, {}, None, engine)
    report |= {"stopped": True, "checkpoint": {"phase": good.phase, "step": good.step, "why": fault.what}}
    with RunFolder(folder) as out:
        assert out.scratch is not None
        files = Safetensors(Options(), ctx).export(student, reporting.manifest(report), out.scratch)
        report["student"]["size_bytes"] = files[0].stat().st_size
        reporting.write_files(out.scratch, engine.plan.lasting, report, ctx.teacher.inputs, None)
        write_atomic(out.scratch / MARK, json.dumps(report, indent=1) + "\n")
        out.publish()


def stopped(fault: NotFinite, good: LastGood | None, engine: Any) -> NotFinite:
    """The fault with a hint: what to try, and where the last good student is; it is written beside the run's folder."""
    fault.hint = f"{_advice(fault.phase, engine)}; {_kept(fault, good, engine)}"
    return fault


def _kept(fault: NotFinite, good: LastGood | None, engine: Any) -> str:
    if good is None:
        return "there was no student yet to keep"
    when = f"the student of step {good.step} of {good.phase}"
    if engine.out.target is None:
        return f"{when} was good, but without --out it is not kept"
    folder = beside(engine.out.target)
    try:
        write(folder, good, fault, engine)
    except ZsqError as error:
        return f"{when} was good, but is not kept: {error.what}"
    return f"{when} is in {folder}"


def _advice(phase: str, engine: Any) -> str:
    """What to change: the learning rate of the player that moved, and the arithmetic where it is not float32 already."""
    plan, (kind, _, name) = engine.plan, phase.partition(":")
    calib = next((choice for choice in plan.calibrators if choice.name == name), None)
    choice = {"prepare": plan.synth, "measure": plan.quant, "quantize": plan.quant, "calibrate": calib}.get(kind, plan.tuner)
    precise = "" if engine.ctx.precision.name == "fp32" else " or --precision fp32"
    if rate := next(iter(choice.options.meaning("lr")), ""):
        return f"try a lower learning rate (--set {choice.role}.{rate}=...){precise}"
    return f"try other components than '{choice.name}'{precise}"


def _is_checkpoint(folder: Path) -> bool:
    try:
        return "checkpoint" in json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
