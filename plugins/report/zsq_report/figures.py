"""The charts of a whole run: curves, sensitivities and a frontier, classes, and how images differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection

from zsq_report import look
from zsq_report.charts import short
from zsq_report.classes import Classes
from zsq_report.curves import Phase
from zsq_report.look import BLUE, INK, MUTED, ORANGE, PAPER, RED, SERIES, WIDTH, Chart, figure, finish

#: Classes that a chart shows one by one.
SHOWN = 24


def curves(phase: Phase, number: int) -> Chart | None:
    """Metrics of one phase over its steps; those of other sizes on axes of their own."""
    shown = {name: points for name, points in phase.curves.items() if len(points) > 1}
    if any(points == shown.get("loss") for name, points in shown.items() if name != "loss"):  # the only term there is
        del shown["loss"]
    panels = _panels(shown)
    if not panels:
        return None
    with figure(30 + 120 * len(panels), rows=len(panels), sharex=True, squeeze=False) as (made, grid):
        colours = {name: SERIES[i % len(SERIES)] for i, name in enumerate(shown)}
        for axes, names in zip(grid[:, 0], panels, strict=True):
            for name in names:
                axes.plot(*zip(*shown[name], strict=True), color=colours[name], label=name.replace("_", " "))
            values = [value for name in names for _, value in shown[name]]
            if min(values) > 0 and max(values) > 20 * min(values):
                look.logarithmic(axes.yaxis)
            axes.margins(x=0.01)
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0.1, handlelength=1.2, columnspacing=1.2)
        grid[-1, 0].set_xlabel("step")
        ends = [f"{name.replace('_', ' ')} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in shown.items()]
        alt = f"Curves of the phase {phase.name} over {phase.steps} steps: {'; '.join(ends)}."
        note = "Ended early by the budget or by the user." if phase.stopped else ""
        return finish(made, f"curves-{number}", phase.name.replace(":", ": "), alt, note)


def _panels(shown: Mapping[str, Sequence[tuple[int, float]]]) -> list[list[str]]:
    """Metrics that fit on one axis together, by the size of their median; at most four axes."""
    sizes = {name: abs(float(np.median([value for _, value in points]))) for name, points in shown.items()}
    panels: list[list[str]] = []
    for name in sorted(shown, key=lambda name: -sizes[name]):
        if panels and (len(panels) == 4 or sizes[panels[-1][0]] <= 12 * max(sizes[name], 1e-12)):
            panels[-1].append(name)
        else:
            panels.append([name])
    return panels


def sensitivities(details: Mapping[str, Any]) -> Chart | None:
    """Harm of every layer by its bits, with the bits it got."""
    found: Mapping[str, Mapping[str, float]] = details.get("sensitivities") or {}
    if not found:
        return None
    chosen = {**details.get("assignment", {}), **details.get("act_assignment", {})}
    bits = sorted({int(k) for own in found.values() for k in own})
    with figure(62 + 15 * len(found)) as (made, axes):
        least = min((v for own in found.values() for v in own.values() if v > 0), default=1e-6)
        for i, k in enumerate(bits):
            values = [max(own.get(str(k), math.nan), least / 2) for own in found.values()]
            axes.plot(values, range(len(found)), "o", color=SERIES[i % len(SERIES)], label=f"{k} bits")
        mine = [max(own.get(str(chosen.get(name)), math.nan), least / 2) for name, own in found.items()]
        axes.plot(mine, range(len(found)), "o", color=INK, markersize=9, markerfacecolor="none", label="chosen")
        look.logarithmic(axes.xaxis)
        axes.set_yticks(range(len(found)), [short(name) for name in found])
        axes.tick_params(axis="y", labelsize=9.5)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("harm of this layer alone, KL in nats")
        made.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4, borderpad=0, handletextpad=0.2, columnspacing=1)
        worst = max(found, key=lambda name: max(found[name].values()))
        alt = f"Sensitivity of {len(found)} layers at {', '.join(map(str, bits))} bits; the most sensitive is {worst}."
        note = "What a layer alone does to the teacher's answers at so many bits; the ring marks what it got."
        return finish(made, "sensitivities", "Sensitivity of every layer", alt, note)


def frontier(details: Mapping[str, Any]) -> Chart | None:
    """Predicted harm against cost: the frontier, the same bits everywhere, and the choice."""
    line, chosen = details.get("frontier"), details.get("chosen")
    if not line or not chosen:
        return None
    cost = details.get("cost", "cost")
    with figure(270) as (made, axes):
        axes.plot(*zip(*line, strict=True), color=BLUE, label="Pareto frontier")
        key = "size_mb" if cost == "MB" else "bops"
        uniform = [(row[key], row["predicted_kl"], row["bits"]) for row in details.get("uniform", ()) if key in row]
        if uniform:
            axes.plot([u[0] for u in uniform], [u[1] for u in uniform], "s", color=MUTED, label="the same bits everywhere")
        for x, y, k in uniform:
            axes.annotate(f"{k} b", (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8.5, color=MUTED)
        axes.plot(*chosen, "*", color=ORANGE, markersize=13, label="chosen")
        look.logarithmic(axes.yaxis)
        axes.set_xlabel("size of the weights, MB" if cost == "MB" else str(cost))
        axes.set_ylabel("sum of sensitivities, nats")
        made.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, borderpad=0, handlelength=1.2, columnspacing=1.2)
        points = details.get("points", len(line))
        alt = f"Pareto frontier of {points} points; chosen: {chosen[0]:.4g} {cost} at a summed sensitivity of {chosen[1]:.3g}."
        note = "Down and to the left is better; what is chosen may lie above the line where errors of layers are known to cancel."
        return finish(made, "frontier", "Harm against cost", alt, note)


def confusion(classes: Classes) -> Chart | None:
    """What the student answers for every right class."""
    count = len(classes.names)
    if count > SHOWN:
        return None
    share = classes.confusion / np.maximum(classes.confusion.sum(1, keepdims=True), 1)
    with figure(WIDTH - 20) as (made, axes):
        cells, colours = [], []
        for (row, column), value in np.ndenumerate(share):
            if value > 0:
                cells.append([(column + dx, row + dy) for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))])
                colours.append((BLUE, 0.12 + 0.4 * value) if row == column else (RED, min(0.06 + 2.5 * value, 0.6)))
                if value >= 0.005 and count <= 12:
                    axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8.5)
        axes.add_collection(PolyCollection(cells, facecolors=colours, edgecolors=PAPER, linewidths=1))
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_xticks(range(count), [short(n) for n in classes.names], rotation=90 if max(map(len, classes.names)) > 2 else 0)
        axes.set_yticks(range(count), [short(n) for n in classes.names])
        axes.set_xlabel("the student's answer")
        axes.set_ylabel("right class")
        axes.grid(visible=False)
        off = share - np.diag(np.diag(share))
        worst = np.unravel_index(int(off.argmax()), off.shape)
        pair = " for ".join(classes.names[i] for i in worst)
        alt = f"Confusion of {count} classes. Most often taken for another: {pair}, {100 * off.max():.1f} percent."
        return finish(
            made, "confusion", "Confusion of the student", alt, "Percent of a class's images; blue is right, red is wrong (drawn stronger)."
        )


def per_class(names: Sequence[str], teacher: Any, student: Any, metric: str) -> Chart | None:
    """A metric in percent of teacher and student class by class, the largest drop first."""
    if teacher is None:
        return None
    order = np.argsort(student - teacher, kind="stable")[:SHOWN]
    with figure(62 + 17 * len(order)) as (made, axes):
        y = range(len(order))
        axes.hlines(y, teacher[order], student[order], color=MUTED, linewidth=1.2)
        axes.plot(teacher[order], y, "o", color=BLUE, label="teacher")
        axes.plot(student[order], y, "D", color=ORANGE, label="student")
        axes.set_yticks(range(len(order)), [short(names[i]) for i in order])
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{metric}, percent")
        made.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, borderpad=0, handletextpad=0.3, columnspacing=1.2)
        first = order[0]
        ends = f"from {teacher[first]:.1f} to {student[first]:.1f} percent"
        alt = f"{metric[:1].upper()}{metric[1:]} class by class. The largest drop is of {names[first]}: {ends}."
        some = f"The {len(order)} largest drops of {len(names)} classes." if len(order) < len(names) else "The largest drop first."
        return finish(made, "classes", "Drop class by class", alt, some)


def images(probabilities: Any, names: Sequence[str]) -> Chart | None:
    """Which classes the teacher sees in the images, and how surely."""
    if probabilities is None or not len(probabilities):
        return None
    confidence, seen = (x.numpy() for x in probabilities.max(1))
    counts = np.bincount(seen, minlength=len(names))
    with figure(290, rows=2) as (made, (above, below)):
        if len(counts) <= 60:
            above.bar(range(len(counts)), counts, color=BLUE)
        else:
            above.stairs(counts, np.arange(len(counts) + 1) - 0.5, fill=True, color=BLUE)
        if len(counts) <= 12:
            above.set_xticks(range(len(counts)), [n[:10] for n in names], rotation=90 if max(map(len, names)) > 3 else 0)
        above.set_title("class, as the teacher sees it")
        above.set_ylabel("images")
        above.grid(axis="x", visible=False)
        below.hist(100 * confidence, bins=np.linspace(0, 100, 21), color=ORANGE, rwidth=0.9)
        below.set_title("the teacher's confidence, percent")
        below.set_ylabel("images")
        below.grid(axis="x", visible=False)
        share = 100 * float(confidence.mean())
        alt = f"{len(seen)} images: {int((counts > 0).sum())} of {len(names)} classes seen; confidence {share:.0f} percent on average."
        return finish(made, "images", "Classes and confidence of the images", alt)
