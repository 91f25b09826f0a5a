"""Puts a run's page and its pictures into the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zsq.events import Publishing
from zsq.files import write_atomic
from zsq_report import charts, figures
from zsq_report.classes import ByClass, Classes, by_class, class_names, classes
from zsq_report.curves import Phase
from zsq_report.gallery import tiles
from zsq_report.look import Chart
from zsq_report.measure import Seen, look
from zsq_report.notes import notes
from zsq_report.page import render
from zsq_report.side_by_side import pairs, sheet

#: Sections of the page with charts; the order in each is that of the page.
Charts = Mapping[str, list[Chart]]


def write(event: Publishing, phases: Sequence[Phase]) -> None:
    """Write ``report.html`` and ``pictures/``; runs both networks again, and does not change them."""
    report, ctx = event.report, event.ctx
    task = ctx.teacher.task
    count = task.classes
    names = class_names(ctx.teacher.labels, count)
    seen = look(ctx)
    found = classes(event.details, ctx.teacher.labels, count) or by_class(event.details)
    single = found if isinstance(found, Classes) else None
    drawn = draw(report, seen, found, phases, names)
    pictures = event.folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for chart in (chart for section in drawn.values() for chart in section):
        write_atomic(pictures / f"{chart.name}.svg", chart.svg)
    if content := sheet(seen, ctx.teacher.inputs):
        write_atomic(pictures / "answers.png", content)
    recipe = event.folder / "recipe.yaml"
    page = render(
        report=report,
        seen=seen,
        classes=single,
        by_class=found if single is None else None,
        notes=notes(report, seen, single),
        tiles=tiles(seen, ctx.teacher.inputs, names),
        pairs=pairs(seen, ctx.teacher.inputs),
        charts=drawn,
        unit=task.unit,
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
    )
    write_atomic(event.folder / "report.html", page)


def draw(report: Mapping[str, Any], seen: Seen, found: Classes | ByClass | None, phases: Sequence[Phase], names: Sequence[str]) -> Charts:
    """Every chart there is something to show in, by section."""
    details = report["student"]["details"]
    sections: dict[str, list[Chart | None]] = {
        "images": [figures.images(seen.teacher, names) if seen.synthetic and names else None],
        "layers": [
            charts.noise(seen.weights),
            charts.ranges(seen.acts, seen.synthetic),
            charts.histograms(seen.weights, "weights"),
            charts.histograms(seen.acts, "activations"),
        ],
        "statistics": [charts.statistics(seen.norms)],
        "curves": [figures.curves(phase, number) for number, phase in enumerate(phases, 1)],
        "precision": [figures.sensitivities(details), figures.frontier(details)],
        "classes": _classes(found),
    }
    return {name: [chart for chart in section if chart is not None] for name, section in sections.items()}


def _classes(found: Classes | ByClass | None) -> list[Chart | None]:
    if isinstance(found, ByClass):
        return [figures.per_class(found.names, found.teacher, found.student, found.metric)]
    return [figures.per_class(found.names, found.teacher, found.student, "top-1"), figures.confusion(found)] if found else []
