"""Rankings as one self-contained web page: no script, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from zsq import __version__
from zsq_cli.compare.chart import COLOURS, Point, chart
from zsq_cli.compare.ranking import Ranking, Row
from zsq_cli.compare.runs import Run, Skipped
from zsq_cli.compare.table import cells, metrics

_TEMPLATE = Path(__file__).parent / "page.html"
#: Units of the horizontal axes, the largest first.
_SIZES = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "bytes": 1.0}
_TIMES = {"hours": 3600.0, "minutes": 60.0, "seconds": 1.0}
_DOT = '<svg viewBox="0 0 10 10" aria-hidden="true"><circle class="c{}" cx="5" cy="5" r="5"/></svg>'


def page(rankings: Sequence[Ranking], alone: Sequence[Run], skipped: Sequence[Skipped]) -> str:
    """The whole page."""
    count = sum(len(row.runs) for ranking in rankings for row in ranking.rows) + len(alone)
    sections = [_ranking(ranking, f"r{number}") for number, ranking in enumerate(rankings, 1)]
    links = [(f"r{number}", ranking.heading) for number, ranking in enumerate(rankings, 1)]
    if alone:
        rows = [(str(run.folder), run.method, run.bits, metrics(run)) for run in alone]
        text = "These runs saw no real images, or the teacher's own figure is missing: no ranking takes them."
        sections.append(
            _section("alone", "Not ranked", [f"<p>{text}</p>", _table("alone", text, ("run", "method", "bits", "metrics"), rows)])
        )
        links.append(("alone", "Not ranked"))
    if skipped:
        items = "".join(f"<li><strong>{escape(one.place)}</strong>: {escape(one.why)}</li>" for one in skipped)
        sections.append(_section("skipped", "Left out", [f"<ul>{items}</ul>"]))
        links.append(("skipped", "Left out"))
    items = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading in links)
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=f"{count} runs compared" if count != 1 else "1 run",
        summary=f"Rankings: {len(rankings)}. Accuracy against size and time; mean ± standard deviation over seeds.",
        navigation=f'<nav aria-label="Rankings"><ul>{items}</ul></nav>' if len(links) > 1 else "",
        sections="\n".join(sections),
        version=__version__,
    )


def _ranking(ranking: Ranking, name: str) -> str:
    """Heading, the teacher's own figure, both charts, the table, and which folders are behind it."""
    notes = "".join(f"<p><strong>Note:</strong> {escape(note)}.</p>" for note in ranking.notes)
    own = f"<p>The teacher's own {escape(ranking.metric)}: <strong>{ranking.own:.2f}</strong></p>"
    bits = list(dict.fromkeys(row.bits for row in ranking.rows))
    key = "".join(f"<li>{_DOT.format(at % COLOURS)}{escape(word)}</li>" for at, word in enumerate(bits))
    key += "<li>dashed: the teacher's own; dotted: nothing further left is as good</li>"
    charts = [
        _chart(ranking, bits, f"{name}-size", "size of the student", [float(row.size) for row in ranking.rows], _SIZES),
        _chart(ranking, bits, f"{name}-time", "time of the run", [row.seconds.mean for row in ranking.rows], _TIMES),
    ]
    headers = ("#", "method", "bits", "seeds", ranking.metric, "drop", "size", "time")
    caption = (
        f"{ranking.metric} in percent; drop: what the teacher has more" if ranking.metric == "top1" else "drop: what the teacher has more"
    )
    table = _table(name, caption, headers, [cells(row) for row in ranking.rows], numbers=(0, 3, 4, 5, 6, 7))
    folders = "".join(f"<li>{row.place}: {escape(', '.join(str(run.folder) for run in row.runs))}</li>" for row in ranking.rows)
    drawn = f'<div class="charts">{"".join(charts)}</div><ul class="key" aria-label="Colours">{key}</ul>' if any(charts) else ""
    return _section(name, ranking.heading, [own, notes, drawn, table, f"<details><summary>Folders</summary><ul>{folders}</ul></details>"])


def _chart(ranking: Ranking, bits: Sequence[str], name: str, what: str, places: Sequence[float], units: Mapping[str, float]) -> str:
    """One of the two charts, in the largest unit that suits it; nothing where no row has a value above 0."""
    unit, size = next((pair for pair in units.items() if max(places) >= 2 * pair[1]), list(units.items())[-1])
    points = [
        Point(place / size, row.value.mean, row.value.spread or 0.0, str(row.place), bits.index(row.bits), _said(row, ranking.metric))
        for row, place in zip(ranking.rows, places, strict=True)
        if place > 0
    ]
    if not points:
        return ""
    title = f"{ranking.metric} against {what}"
    description = f"{len(points)} points, numbered as in the table; the dashed line is the teacher's own {ranking.own:.2f}."
    return f"<figure>{chart(points, name, title, description, f'{what}, {unit}', ranking.metric, ranking.own)}</figure>"


def _said(row: Row, metric: str) -> str:
    place, method, bits, _, value, _, size, time = cells(row)
    return f"{place}. {method}, {bits}: {metric} {value}, {size}, {time}"


def _section(name: str, heading: str, parts: Sequence[str]) -> str:
    return f'<section id="{name}" aria-labelledby="{name}-head"><h2 id="{name}-head">{escape(heading)}</h2>{"".join(parts)}</section>'


def _table(name: str, caption: str, headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table that may be scrolled sideways where it does not fit; the column after the number, or the first, names its row."""
    named = 1 if numbers else 0
    form = [' class="n"' if at in numbers else "" for at in range(len(headers))]
    head = "".join(f'<th scope="col"{form[at]}>{escape(text)}</th>' for at, text in enumerate(headers))
    body = "".join(
        "<tr>" + "".join(
            f'<th scope="row"{form[at]}>{escape(text)}</th>' if at == named else f"<td{form[at]}>{escape(text)}</td>"
            for at, text in enumerate(row)
        ) + "</tr>"
        for row in rows
    )  # fmt: skip
    region = f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}, {name}">'
    return (f"{region}<table><caption>{escape(caption)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")  # fmt: skip
