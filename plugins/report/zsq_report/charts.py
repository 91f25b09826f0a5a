"""Charts of layers: bits and noise, ranges and observed values, histograms with clip lines, BatchNorm statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection

from zsq_report.look import BLUE, INK, MUTED, ORANGE, RED, Chart, figure, finish, logarithmic
from zsq_report.measure import Activation, Norm, Weights

#: Height of one layer in points, and what a chart of layers needs beside.
_ROW, _REST = 15, 62
#: What is said where weights are no longer near the teacher's.
_MOVED = (
    " Weights were moved on purpose, by equalization or tuning, and that counts as noise of theirs; "
    "outputs are compared up to a factor and an offset per channel."
)
#: Characters of a layer's name that a chart shows.
_NAME = 26


def short(path: str) -> str:
    """A name cut in its middle, so that its end is seen."""
    return path if len(path) <= _NAME else f"{path[:7]}…{path[-(_NAME - 8) :]}"


def noise(rows: Sequence[Weights]) -> Chart | None:
    """Signal to quantization noise of every layer."""
    shown = [row for row in rows if row.sqnr is not None or row.output_sqnr is not None]
    if not shown:
        return None
    with figure(_REST + _ROW * len(shown)) as (made, axes):
        y = range(len(shown))
        for values, colour, marker, label in (
            ([row.sqnr for row in shown], BLUE, "o", "weights"),
            ([row.output_sqnr for row in shown], ORANGE, "D", "output, with all errors before"),
        ):
            axes.plot([math.nan if v is None else v for v in values], y, marker, color=colour, label=label)
        _layers(axes, [f"{short(row.path)} · {row.bits} b" for row in shown])
        axes.set_xlabel("signal to quantization noise, dB")
        _legend(made, axes)
        worst = min((row for row in shown), key=lambda row: row.output_sqnr if row.output_sqnr is not None else math.inf)
        alt = f"Signal to noise of {len(shown)} layers. The noisiest output is {_db(worst.output_sqnr)}, of {worst.path}."
        note = "Student against teacher: farther right is closer to the teacher. 6 dB are one bit." + (
            _MOVED if any(row.moved for row in shown) else ""
        )
        return finish(made, "noise", "Signal to quantization noise, layer by layer", alt, note)


def ranges(rows: Sequence[Activation], synthetic: bool) -> Chart | None:
    """The observed values at every activation point beside its range."""
    shown = [row for row in rows if row.values]
    if not shown:
        return None
    with figure(_REST + _ROW * len(shown)) as (made, axes):
        y = np.arange(len(shown))
        axes.barh(y, [row.hi - row.lo for row in shown], 0.62, [row.lo for row in shown], color=BLUE, alpha=0.32, label="range")
        axes.hlines(y, [row.low for row in shown], [row.high for row in shown], color=INK, linewidth=1.3, label="what arrived")
        axes.plot([row.high for row in shown], y, "|", color=INK, markersize=7)
        axes.plot([row.low for row in shown], y, "|", color=INK, markersize=7)
        _layers(axes, [f"{short(row.path)} · {row.bits} b" for row in shown])
        axes.set_xlabel("activation")
        _legend(made, axes)
        most = max(shown, key=lambda row: row.clipped or 0)
        alt = f"Ranges of {len(shown)} activations against what arrived. Most clips {most.path}: {most.clipped:.2g} percent of values."
        what = "synthetic images" if synthetic else "Gaussian noise, there being no images"
        return finish(
            made,
            "ranges",
            "Ranges against real extremes",
            alt,
            f"Extremes over {what}. A line beyond its bar is clipped; a bar beyond its line is unused codes.",
        )


def histograms(rows: Sequence[Weights] | Sequence[Activation], name: str) -> Chart | None:
    """Values of every layer on one axis, in units of its range."""
    shown = [row for row in rows if row.histogram is not None]
    if not shown:
        return None
    with figure(_REST + 6 + 19 * len(shown)) as (made, axes):
        left, right = -0.02, 1.02
        filled: list[Any] = []
        outlined: list[Any] = []
        for at, row in enumerate(shown):
            found: Any = row.histogram
            left, right = min(left, found.start), max(right, found.end)
            filled.append(_steps(found, found.counts, at))
            if found.after is not None:
                outlined.append(_steps(found, found.after, at))
        axes.add_collection(PolyCollection(filled, facecolor=BLUE, alpha=0.55, edgecolor="none"))
        axes.add_collection(PolyCollection(outlined, facecolor="none", edgecolor=ORANGE, linewidth=0.7))
        axes.vlines([0, 1], -0.95, len(shown) - 0.9, color=RED, linewidth=1, linestyle=(0, (4, 2)))
        axes.set_xlim(left, right)
        axes.set_xticks([0, 0.5, 1], ["low end", "middle", "high end"])
        _layers(axes, [short(row.path) for row in shown], above=1.0)
        axes.grid(axis="x", visible=False)
        weights = name == "weights"
        title = "Weight histograms with clip lines" if weights else "Activation histograms with clip lines"
        what = "layers' weights" if weights else "activations"
        alt = f"Histograms of {len(shown)} {what}, each in units of its quantization range, with clip lines at both ends."
        note = "Every layer in units of its own range, clip lines dashed, height as the square root of the count."
        note += " Filled: the teacher's weights, channel by channel; outlined: the student's codes." if weights else ""
        return finish(made, f"histograms-{name}", title, alt, note)


def statistics(rows: Sequence[Norm]) -> Chart | None:
    """The distance of BatchNorm statistics to the running statistics."""
    if not rows:
        return None
    with figure(_REST + _ROW * len(rows)) as (made, axes):
        y = range(len(rows))
        series = (
            ("noise", MUTED, "s", "Gaussian noise"),
            ("images", BLUE, "o", "synthetic images"),
            ("student", ORANGE, "D", "in the student"),
        )
        for field, colour, marker, label in series:
            values = [max(v, 1e-4) if (v := getattr(row, field)) is not None else math.nan for row in rows]
            if not all(map(math.isnan, values)):
                axes.plot(values, y, marker, color=colour, label=label)
        logarithmic(axes.xaxis)
        _layers(axes, [short(row.path) for row in rows])
        axes.set_xlabel("divergence of statistics, nats per channel")
        _legend(made, axes)
        told = [f"{label} {value:.2g}" for field, _, _, label in series if (value := average(rows, field)) is not None]
        note = (
            "KL divergence of what arrives from the running statistics, both taken as normal: farther left is closer. "
            "Before synthesis: noise; after: images; after quantization: the student, against what it keeps itself."
        )
        return finish(
            made,
            "statistics",
            "BatchNorm statistics, before and after",
            f"Divergence over {len(rows)} layers, on average: {', '.join(told)}.",
            note,
        )


def average(rows: Sequence[Norm], field: str) -> float | None:
    """Over layers."""
    values = [v for row in rows if (v := getattr(row, field)) is not None]
    return sum(values) / len(values) if values else None


def _layers(axes: Any, names: list[str], above: float = 0.6) -> None:
    """Names of layers from top to bottom."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelsize=9.5)
    axes.set_ylim(len(names) - 0.4, -above)
    axes.grid(axis="y", visible=False)


def _legend(made: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside upper left", ncols=3, borderpad=0, handletextpad=0.4, columnspacing=1.2)


def _steps(found: Any, counts: Any, at: int) -> Any:
    """Corners (2 BINS, 2) of a histogram on the line ``at``, up to one row high; the one highest bar, of zeros or of what lies beyond, may
    be cut there."""
    x = np.linspace(found.start, found.end, len(counts) + 1)
    heights = np.sqrt(counts.numpy())
    heights = np.minimum(0.8 * heights / max(float(np.sort(heights)[-2]), 1e-12), 0.95)
    return np.column_stack([np.repeat(x, 2), at - np.concatenate([[0], np.repeat(heights, 2), [0]])])


def _db(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1f} dB"
