"""``zsq export``: further files of a saved student, written beside it; and what ``verify`` and ``bench`` share with it."""

from __future__ import annotations

import json as json_
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._component import Role
from zsq._manager import Manager
from zsq.errors import ZsqError
from zsq_cli.run import read_report, saved_context

if TYPE_CHECKING:
    from zsq.types import Context, Student

#: What to expect of a student below 8 bits, wherever its speed is the subject.
BELOW_8_BITS = "values below 8 bits lie in int8 containers: they run at int8 speed and save download size (model.safetensors)"


def export_run(run: Path, to: str, *, json: bool = False) -> None:
    """Write the files of exporter ``to`` into the run's folder, and name them."""
    from zsq._run.places import locate
    from zsq_cli import render

    run = locate(run)
    report, manager = read_report(run), Manager.discover()
    found = manager.get(Role.EXPORT, to)
    student, ctx, manifest = saved_student(run, report)
    options = found.component.options.parse(found.values, f"exporter '{to}'")
    files = found.component.implementation()(options, ctx).export(student, manifest, run)
    sizes = {str(path): path.stat().st_size for path in files}
    if json:
        render.print_json({"files": sizes, "teacher_bytes": report["teacher"].get("size_bytes")})
        return
    own = report["teacher"].get("size_bytes")
    for name, size in sizes.items():
        share = f", {size / own:.2f} of the teacher's" if own else ""
        render.console().print(f"{name}: {size} bytes{share}", soft_wrap=True)


def saved_student(run: Path, report: Mapping[str, Any]) -> tuple[Student, Context, dict[str, Any]]:
    """The student of a run, the context that its exporters get, and the manifest that it was saved with."""
    from zsq.format import load
    from zsq.types import Student

    module: Any = load(run)
    config = json_.loads((run / "config.json").read_text(encoding="utf-8"))
    if not config.get("inputs"):
        raise ZsqError("the saved student does not say what it takes", str(run / "config.json"), "run it again with this zsq")
    points = {path: m for path, m in module.named_modules() if getattr(m, "kind", None) in ("weight", "act")}
    student = Student(module, points, {}, report["student"].get("layers", ()), str(config.get("protocol", "")))
    return student, saved_context(run, module, report), config.get("manifest", {})


def able(to: str, what: str) -> Any:
    """Makes the exporter ``to`` for a context; it has to be able to ``verify`` or ``bench``."""
    found = Manager.discover().get(Role.EXPORT, to)
    implementation = found.component.implementation()
    if not hasattr(implementation, what):
        raise ZsqError(f"exporter '{to}' cannot {what} its files", found.provider, "use --to onnx")
    return lambda ctx: implementation(found.component.options.parse(found.values), ctx)
