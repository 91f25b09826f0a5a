"""Which runs may stand in one ranking, which of them differ by their seed only, and in what order they come."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from zsq_cli.compare.runs import Run

#: The metric of a ranking, where both teacher and student have it; else the first that both have. More is better.
_METRIC = "top1"


@dataclass(frozen=True)
class Figure:
    """Mean and sample standard deviation over seeds; the latter None of one seed."""

    mean: float
    spread: float | None
    count: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, float]]) -> Figure:
        """From seeds and values. Several runs of one seed count as one, with their mean: repeating a run makes nothing more certain."""
        seeds: dict[int, list[float]] = {}
        for seed, value in pairs:
            seeds.setdefault(seed, []).append(value)
        means = [math.fsum(values) / len(values) for values in seeds.values()]
        mean = math.fsum(means) / len(means)
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in means) / (len(means) - 1)) if len(means) > 1 else None
        return cls(mean, spread, len(means))


@dataclass(frozen=True)
class Row:
    """Runs of one method at the same bits, which differ by their seed only.

    ``settings`` says what tells it from other rows of the same method and bits. ``value`` is the ranking's metric, ``drop`` what the
    teacher has more of it. ``size`` and ``teacher_size`` are bytes, the latter 0 where it is not known; ``seconds`` is the time of a
    run; ``stopped`` counts the runs that the budget or the user ended early.
    """

    method: str
    bits: str
    runs: tuple[Run, ...]
    value: Figure
    seconds: Figure
    drop: float
    size: int
    teacher_size: int
    stopped: int
    settings: str = ""
    place: int = 0


@dataclass(frozen=True)
class Ranking:
    """Rows that may be compared: one teacher, one scheme, the same real images, and the same result of the teacher on them."""

    teacher: str = field(compare=False)  # one network may have several references
    fingerprint: str
    scheme: str
    evaluation: str
    images: int
    metric: str
    own: float
    rows: tuple[Row, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())

    @property
    def heading(self) -> str:
        return f"{self.teacher}, scheme {self.scheme}, {self.images} images of {self.evaluation}"


def rank(runs: Sequence[Run], by: str = "accuracy") -> tuple[list[Ranking], list[Run]]:
    """Rankings, the largest first, and the runs that no real images were shown to, which no ranking takes.

    Args:
        runs: In any order.
        by: What rows are ordered by: ``accuracy``, ``size`` or ``time``.
    """
    apart: dict[Ranking, list[Run]] = {}
    alone = []
    for run in runs:
        both = [name for name in run.metrics if name in run.own]
        if both and run.images:
            metric = _METRIC if _METRIC in both else both[0]
            head = Ranking(run.teacher, run.fingerprint, run.scheme, run.evaluation, run.images, metric, round(run.own[metric], 2))
            apart.setdefault(head, []).append(run)
        else:
            alone.append(run)
    rankings = [_filled(head, members, by) for head, members in apart.items()]
    return sorted(rankings, key=lambda r: (-sum(len(row.runs) for row in r.rows), r.heading)), alone


def _filled(head: Ranking, runs: Sequence[Run], by: str) -> Ranking:
    groups: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.method, run.bits, tuple(sorted(run.settings.items()))), []).append(run)
    rows = [_row(head, method, bits, members) for (method, bits, _), members in groups.items()]
    told = [replace(row, settings=_apart(row, [r for r in rows if (r.method, r.bits) == (row.method, row.bits)])) for row in rows]
    order = {
        "accuracy": lambda row: (-row.value.mean, row.size),
        "size": lambda row: (row.size, -row.value.mean),
        "time": lambda row: (row.seconds.mean, -row.value.mean),
    }[by]
    placed = [replace(row, place=place) for place, row in enumerate(sorted(told, key=order), 1)]
    return replace(head, rows=tuple(placed), notes=tuple(_notes(runs)))


def _row(head: Ranking, method: str, bits: str, runs: Sequence[Run]) -> Row:
    seeds = [run.seed for run in runs]
    value = Figure.of(zip(seeds, (run.metrics[head.metric] for run in runs), strict=True))
    return Row(
        method=method,
        bits=bits,
        runs=tuple(runs),
        value=value,
        seconds=Figure.of(zip(seeds, (run.seconds for run in runs), strict=True)),
        drop=head.own - value.mean,
        size=round(sum(run.size for run in runs) / len(runs)),
        teacher_size=runs[0].teacher_size,
        stopped=sum(run.stopped for run in runs),
    )


def _apart(row: Row, rivals: Sequence[Row]) -> str:
    """The settings that are not the same in all rows of one method and bits."""
    if len(rivals) < 2:
        return ""
    every = [rival.runs[0].settings for rival in rivals]
    mine = row.runs[0].settings
    keys = sorted({key for settings in every for key in settings})
    differing = [key for key in keys if len({settings.get(key) for settings in every}) > 1]
    return ", ".join(f"{key}={mine[key]}" for key in differing if key in mine) or "defaults"


def _notes(runs: Sequence[Run]) -> Iterable[str]:
    """What has to be known before times and accuracies are taken at their word."""
    if len(machines := sorted({run.machine for run in runs})) > 1:
        yield f"times come from {len(machines)} machines and say little beside each other: {'; '.join(machines)}"
    if len(versions := sorted({run.version for run in runs})) > 1:
        yield f"made by several versions of zsq: {', '.join(versions)}"
    if stopped := sum(run.stopped for run in runs):
        yield f"{stopped} of {len(runs)} runs were ended early, by a budget or by the user"
