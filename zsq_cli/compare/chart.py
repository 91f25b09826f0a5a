"""A scatter chart as inline SVG: text and shapes that follow the page's colours, with a title on every point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

#: Sizes in the units of the view box: the whole, and the margins left, right, top, bottom.
_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 14, 46
#: Numbers beside points that would lie nearer together than this are left out; the table has them.
_NEAR = 13
#: From this ratio on an axis is logarithmic.
_WIDE = 8
#: Colours that the page's style sheet has for points.
COLOURS = 6


@dataclass(frozen=True)
class Point:
    """One row: where it lies, half the length of its error bar, its number in the table, a colour and what it says when pointed at."""

    x: float
    y: float
    spread: float
    label: str
    colour: int
    title: str


def chart(points: Sequence[Point], name: str, title: str, description: str, x_title: str, y_title: str, line: float) -> str:
    """The chart.

    Args:
        points: At least one, ``x`` above 0.
        name: Of its elements on the page.
        title: For readers of screens.
        description: What it shows, in a sentence.
        x_title: Below the horizontal axis.
        y_title: Above the vertical axis.
        line: A horizontal line: the teacher's own.
    """
    across = _scale([p.x for p in points], _LEFT, _WIDTH - _RIGHT)
    up = _scale([line, *(p.y + s for p in points for s in (-p.spread, p.spread))], _HEIGHT - _BOTTOM, _TOP, straight=True)
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{name}-title {name}-text">',
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-text">{escape(description)}</desc>',
    ]
    for value in up.ticks:
        y = up.place(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in across.ticks:
        x = across.place(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_title)}</text>')
    parts.append(
        f'<text transform="translate(12 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>'
    )
    parts.append(f'<line class="own" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up.place(line):.1f}" y2="{up.place(line):.1f}"/>')
    parts.append(f'<polyline class="best" points="{" ".join(_frontier(points, across.place, up.place))}"/>')
    return "".join([*parts, *_marks(points, across.place, up.place), "</svg>"])


def _marks(points: Sequence[Point], across: Callable[[float], float], up: Callable[[float], float]) -> list[str]:
    """Error bars, points and their numbers."""
    parts: list[str] = []
    written: list[tuple[float, float]] = []
    for point in points:
        x, y = across(point.x), up(point.y)
        if point.spread:
            parts.append(f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{up(point.y - point.spread):.1f}" '
                         f'y2="{up(point.y + point.spread):.1f}"/>')  # fmt: skip
        parts.append(
            f'<circle class="c{point.colour % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(point.title)}</title></circle>'
        )
        if all(math.dist((x, y), other) >= _NEAR for other in written):
            end = x > _WIDTH - _RIGHT - 20
            anchor = ' text-anchor="end"' if end else ""
            parts.append(f'<text class="number" x="{x - 8 if end else x + 8:.1f}" y="{y - 6:.1f}"{anchor}>{escape(point.label)}</text>')
            written.append((x, y))
    return parts


def _frontier(points: Sequence[Point], across: Callable[[float], float], up: Callable[[float], float]) -> list[str]:
    """The points that none beats in both: nothing smaller is as good."""
    best, corners = -math.inf, []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if point.y > best:
            best = point.y
            corners.append(f"{across(point.x):.1f},{up(point.y):.1f}")
    return corners


@dataclass(frozen=True)
class _Axis:
    """Values to places, and the values that get a tick."""

    place: Callable[[float], float]
    ticks: tuple[float, ...]


def _scale(values: Sequence[float], first: float, last: float, straight: bool = False) -> _Axis:
    """An axis from ``first`` to ``last`` with some room at both ends; logarithmic where values range wide."""
    low, high = min(values), max(values)
    log = not straight and low > 0 and high / low >= _WIDE
    to, back = (math.log10, lambda value: 10.0**value) if log else (float, float)
    start, end = to(low), to(high)
    room = (end - start) * 0.08 or (abs(end) * 0.1 or 1.0)
    start, end = start - room, end + room

    def place(value: float) -> float:
        return first + (to(value) - start) / (end - start) * (last - first)

    if log:
        steps = [m * 10.0**e for e in range(math.floor(start), math.ceil(end) + 1) for m in (1, 2, 5)]
        ticks = [value for value in steps if back(start) <= value <= back(end)]
        ticks = ticks[:: math.ceil(len(ticks) / 6)]
    else:
        step = _round((end - start) / 5)
        ticks = [step * n for n in range(math.ceil(start / step), math.floor(end / step) + 1)]
    return _Axis(place, tuple(round(value, 10) for value in ticks))


def _round(step: float) -> float:
    """The nearest larger of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * 0.999)
