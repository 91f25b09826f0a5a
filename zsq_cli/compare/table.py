"""Rankings as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from zsq_cli import render
from zsq_cli.compare.ranking import Figure, Ranking, Row
from zsq_cli.compare.runs import Run


def tables(rankings: Sequence[Ranking], alone: Sequence[Run]) -> Group:
    """One table per ranking under its heading, then the runs that none takes."""
    parts: list[RenderableType] = []
    for ranking in rankings:
        parts += [Text(ranking.heading, style="bold"), Text(f"the teacher's own {ranking.metric}: {ranking.own:.2f}")]
        headers = ("", "method", "bits", "seeds", ranking.metric, "drop", "size", "time")
        rows = [cells(row) for row in ranking.rows]
        parts.append(render.indented(render.table(rows, *headers, styles=("dim", "bold"))))
        parts += [*(Text(f"note: {note}", style="yellow") for note in ranking.notes), ""]
    if len(rankings) > 1:
        parts.append(Text("Rankings are apart where teacher, scheme or evaluation differ: their figures are not comparable."))
    if alone:
        parts.append(Text("Not ranked: evaluated on no real images, or with nothing of the teacher's beside", style="bold"))
        rows_ = [(str(run.folder), run.method, run.bits, metrics(run)) for run in alone]
        parts.append(render.indented(render.table(rows_, "run", "method", "bits", "metrics")))
    return Group(*parts)


def cells(row: Row) -> tuple[str, ...]:
    """A row as text; the same in the terminal and on the page."""
    method = f"{row.method} ({row.settings})" if row.settings else row.method
    smaller = f", {row.teacher_size / row.size:.1f}x smaller" if row.size and row.teacher_size else ""
    size = f"{render.size_text(row.size)}{smaller}" if row.size else "not saved"
    time = render.duration(row.seconds.mean) + (f" ± {render.duration(row.seconds.spread)}" if row.seconds.spread is not None else "")
    stopped = f", {row.stopped} ended early" if row.stopped else ""
    return str(row.place), method, row.bits, str(row.value.count), figure(row.value), f"{row.drop:.2f}", size, time + stopped


def figure(value: Figure) -> str:
    """``90.15 ± 0.12``."""
    return f"{value.mean:.2f}" + (f" ± {value.spread:.2f}" if value.spread is not None else "")


def metrics(run: Run) -> str:
    """What an unranked run measured."""
    return ", ".join(f"{name} {value:.4g}" for name, value in run.metrics.items()) or "none"
