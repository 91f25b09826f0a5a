"""``zsq compare``: many runs side by side, never mixing what cannot be compared. Reads reports only, and imports no torch."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zsq.errors import OptionError, ZsqError
from zsq.files import write_atomic
from zsq_cli.compare.ranking import Ranking, Row, rank
from zsq_cli.compare.runs import Run, Skipped, find

#: Columns of ``--csv``: one line per row of a ranking.
COLUMNS = (
    *("ranking", "teacher", "scheme", "evaluation", "images", "metric", "teacher_value"),
    *("place", "method", "settings", "bits", "seeds", "value", "spread", "drop"),
    *("size_bytes", "teacher_bytes", "seconds", "seconds_spread", "stopped", "folders"),
)


def compare_runs(places: Sequence[str], by: str, *, html: Path | None = None, json: bool = False, csv: bool = False) -> int:
    """Find, rank and print; 1 when something that was named could not be read.

    Raises:
        ZsqError: If nothing could be read.
    """
    from zsq_cli import render

    if json and csv:
        raise OptionError("--json and --csv both want standard output", "", "give one of them")
    runs, skipped = find(places)
    errors = render.console(error=True)
    for one in skipped:
        errors.print(f"zsq: left out {one.place}: {one.why}", soft_wrap=True)
    if not runs:
        raise ZsqError("there is no run to compare", ", ".join(map(str, places)), "give folders that `zsq run` wrote, or a folder of them")
    rankings, alone = rank(runs, by)
    if html is not None:
        from zsq_cli.compare.page import page

        write_atomic(html, page(rankings, alone, skipped))
        errors.print(f"written: {html}", soft_wrap=True)
    if json:
        render.print_json(values(rankings, alone, skipped))
    elif csv:
        write_csv(rankings)
    else:
        from zsq_cli.compare.table import tables

        render.console().print(tables(rankings, alone))
    return 1 if skipped else 0


def values(rankings: Sequence[Ranking], alone: Sequence[Run], skipped: Sequence[Skipped]) -> dict[str, Any]:
    """All of it as plain values."""
    return {
        "schema": 1,
        "rankings": [
            {**_head(ranking), "notes": list(ranking.notes), "rows": [{**_cells(row), "folders": folders(row)} for row in ranking.rows]}
            for ranking in rankings
        ],
        "unranked": [{"folder": str(run.folder), "method": run.method, "bits": run.bits, "metrics": run.metrics} for run in alone],
        "left_out": [asdict(one) for one in skipped],
    }


def write_csv(rankings: Sequence[Ranking]) -> None:
    """One line per row, on standard output."""
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for number, ranking in enumerate(rankings, 1):
        for row in ranking.rows:
            cells = {"ranking": number, **_head(ranking), **_cells(row), "folders": ";".join(folders(row))}
            writer.writerow({key: _safe(value) for key, value in cells.items() if key in COLUMNS})


def folders(row: Row) -> list[str]:
    """Where the runs of a row are."""
    return [str(run.folder) for run in row.runs]


def _head(ranking: Ranking) -> dict[str, Any]:
    return {
        "teacher": ranking.teacher,
        "fingerprint": ranking.fingerprint,
        "scheme": ranking.scheme,
        "evaluation": ranking.evaluation,
        "images": ranking.images,
        "metric": ranking.metric,
        "teacher_value": ranking.own,
    }


def _cells(row: Row) -> dict[str, Any]:
    return {
        "place": row.place,
        "method": row.method,
        "settings": row.settings,
        "bits": row.bits,
        "seeds": row.value.count,
        "value": row.value.mean,
        "spread": row.value.spread,
        "drop": row.drop,
        "size_bytes": row.size,
        "teacher_bytes": row.teacher_size,
        "seconds": row.seconds.mean,
        "seconds_spread": row.seconds.spread,
        "stopped": row.stopped,
    }


def _safe(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is quoted."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
