"""Tables of results for a terminal, for the command line and for Python. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Columns if the output is a pipe.
_PIPE_WIDTH = 140


def console(error: bool = False) -> Console:
    """Standard output or standard error as a rich console, which prints text as it is, without markup."""
    stream = sys.stderr if error else sys.stdout
    return Console(stderr=error, width=None if stream.isatty() else _PIPE_WIDTH, markup=False, emoji=False, highlight=False)


def table(rows: Iterable[Sequence[Any]], *headers: str, title: str = "", styles: Sequence[str] = ()) -> Table:
    """A table without lines; the first column is bold."""
    result = Table(
        *headers, title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=any(headers)
    )
    for index, column in enumerate(result.columns):
        column.style = styles[index] if index < len(styles) else ("bold" if index == 0 else "")
        column.overflow = "fold"
    for row in rows:
        result.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return result


def report_table(report: Mapping[str, Any], folder: Path | None = None) -> Table:
    """The closing table of a run: the student's metrics beside the teacher's own, bits, size and time."""
    teacher, student = report["teacher"], report["student"]
    own, metrics = teacher["metrics"], student["metrics"]
    rows: list[tuple[str, str]] = [("teacher", teacher["ref"])]
    for name, value in metrics.items():
        if name in own:
            drop = own[name] - value
            rows += [(f"teacher {name}", f"{own[name]:.2f}"), (f"student {name}", f"{value:.2f}"), ("drop", f"{drop:.2f}")]
            if name in (student.get("calibrated") or {}):
                rows.append((f"before tuning {name}", f"{student['calibrated'][name]:.2f}"))
        else:
            label = f"agreement, % of {teacher.get('unit', 'images')}" if name == "agreement" else name.replace("_", " ")
            rows.append((label, f"{value:g}" if value == int(value) else f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"))
    bits = f"weights {student['weight_bits']}, activations {student['act_bits'] or 'in float'}"
    rows += [("bits", bits), ("scheme", student["scheme"])]
    if parts := student.get("float_parts"):
        rows.append(("in float", ", ".join(parts)))
    if student.get("size_bytes"):
        before, after = teacher.get("size_bytes") or 0, student["size_bytes"]
        ratio = f" ({before / after:.1f} times smaller)" if before > after else ""
        rows.append(("size", f"{size_text(before)} -> {size_text(after)}{ratio}" if before else size_text(after)))
    cut = [f"{p['name']} at {p['steps']} of {p['total']} steps" for p in report["phases"] if p.get("steps", 0) < p.get("total", 0)]
    seconds = duration(report["wall_s"]) + (f", cut by the budget: {', '.join(cut) or 'schedules'}" if report.get("stopped") else "")
    rows += [("time", seconds), ("real images", str(report["images_evaluated"]) if report["images_evaluated"] else "none evaluated")]
    if folder is not None:
        rows.append(("saved in", str(folder)))
    return table(rows, "", "", styles=("dim", "bold"))


def metrics_table(student: Mapping[str, float], teacher: Mapping[str, float]) -> Table:
    """Metrics of a saved student, beside the teacher's if its report has them."""
    rows = []
    for name, value in student.items():
        own = teacher.get(name)
        rows.append((name, f"{value:.6g}", "" if own is None else f"{own:.6g}", "" if own is None else f"{own - value:.4g}"))
    return table(rows, "metric", "student", "teacher", "drop")


def duration(seconds: float) -> str:
    """``8.1 s``, ``4 min 05 s``."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def size_text(count: float) -> str:
    """``163.0 kB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
