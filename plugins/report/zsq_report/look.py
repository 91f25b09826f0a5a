"""The style of charts: one small palette, fixed colours in files, and variables in the page, so that charts follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

#: Colours by their name in the page's style sheet; the values are those of its light scheme.
INK, MUTED, RULE, PAPER = "#1b2530", "#56616f", "#d5dbe2", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE, RED = "#1d5fae", "#b4540a", "#2b7a4b", "#7545b5", "#b3261e"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED)
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper", BLUE: "blue", ORANGE: "orange", GREEN: "green",
              PURPLE: "purple", RED: "red"}  # fmt: skip

#: Width of every chart in points; a page shows it between 0.8 and 1.4 times as large.
WIDTH = 390
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "zsq", "text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 10.5,
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": INK, "axes.labelsize": 10,
    "axes.labelcolor": MUTED, "axes.edgecolor": RULE, "axes.facecolor": "none", "figure.facecolor": "none", "axes.grid": True,
    "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "xtick.major.size": 0, "text.color": INK,
    "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0, "legend.frameon": False, "legend.fontsize": 9.5,
    "lines.linewidth": 1.5, "lines.markersize": 4.5, "axes.unicode_minus": True,
}  # fmt: skip


#: What a path is made of, and in it digits beyond a hundredth of a point: nobody sees them, and they are a third of a chart.
_PATH, _DIGITS = re.compile(r'\sd="[^"]*"'), re.compile(r"(\.\d\d)\d+")


@dataclass(frozen=True)
class Chart:
    """One finished chart.

    Args:
        name: Of its file, without a suffix.
        title: Its heading.
        alt: What it shows, in a sentence, for those who do not see it.
        note: How to read it.
        svg: The file.
    """

    name: str
    title: str
    alt: str
    note: str
    svg: str

    @property
    def inline(self) -> str:
        """As part of a page: colours are the page's variables, and names inside are its own."""
        text = self.svg[self.svg.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)
        text = re.sub(r'\sid="([^"]*)"', rf' id="{self.name}-\1"', text)
        text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', self._opening, text, count=1)
        text = re.sub(r'(href="#|url\(#)', rf"\1{self.name}-", text)
        for colour, name in _VARIABLES.items():
            text = text.replace(colour, f"var(--{name})")
        return re.sub(r"\n\s*", "\n", text).strip()

    def _opening(self, found: re.Match[str]) -> str:
        return f'<svg viewBox="{found[1]}" role="img" aria-label="{escape(self.alt, quote=True)}">'


@contextmanager
def figure(height: float, columns: int = 1, rows: int = 1, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure of :data:`WIDTH` x ``height`` points in this style, and its axes."""
    with matplotlib.rc_context(_STYLE):
        made = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03))
        yield made, made.subplots(rows, columns, **options)


def finish(made: Figure, name: str, title: str, alt: str, note: str = "") -> Chart:
    """The chart as a file; the same figures give the same bytes."""
    text = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        canvas: Any = FigureCanvasSVG(made)  # matplotlib has no types for what writes files
        canvas.print_svg(text, metadata={"Date": None, "Creator": "zsq", "Title": title})
    return Chart(name, title, alt, note, _PATH.sub(lambda path: _DIGITS.sub(r"\1", path[0]), text.getvalue()))


def logarithmic(axis: Any) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _at: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
