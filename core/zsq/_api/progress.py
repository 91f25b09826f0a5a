"""Progress of a run: bars on a terminal, one table in a notebook, one line per phase anywhere else. No torch."""

from __future__ import annotations

import html
import importlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zsq import events
from zsq._api.tables import console, duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds between two readings of metrics, because reading a tensor may wait for the device.
_REFRESH = 0.25


@contextmanager
def progress() -> Iterator[Any]:
    """Shows events: a table in a notebook, bars on a terminal, otherwise one line per phase; the last two on standard error."""
    if in_notebook():
        yield Cell()
        return
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    steps = TextColumn("{task.fields[steps]:>9}")
    columns = (TextColumn("{task.description:<20.20}"), BarColumn(10), steps, TextColumn("{task.fields[rate]:>13}"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[metrics]}", style="dim"), console=console(error=True), refresh_per_second=4) as bars:
        yield Bars(bars)


def in_notebook() -> bool:
    """Whether this process runs a notebook. Imports nothing: a notebook has imported IPython already."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class Cell:
    """A small table below the cell: a row per phase, updated a few times a second, and messages below it."""

    def __init__(self) -> None:
        shown = importlib.import_module("IPython.display")  # every notebook has it; zsq does not depend on it
        self.html = shown.HTML
        self.rows: dict[str, str] = {}
        self.notes: list[str] = []
        self.began = self.drawn = 0.0
        self.step: events.Stepped | None = None
        self.handle = shown.display(shown.HTML(""), display_id=True)

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.PhaseStarted):
            self.began, self.step = event.seconds, None
            self.rows[event.phase] = "…"
        elif isinstance(event, events.Stepped):
            self.step = event
            self.rows[event.phase] = self._state(event.seconds - self.began)
        elif isinstance(event, events.PhaseEnded):
            self.rows[event.phase] = self._state(event.seconds - self.began) + (", stopped early" if event.stopped else "")
        elif isinstance(event, events.Message):
            self.notes.append(event.text)
        else:
            return
        now = time.monotonic()
        if not isinstance(event, events.Stepped) or now - self.drawn >= _REFRESH:
            self.drawn = now
            self.handle.update(self.html(self.page()))

    def page(self) -> str:
        """The table as HTML; everything in it is escaped."""
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(phase)}</td><td style='text-align:left'>{html.escape(state)}</td></tr>"
            for phase, state in self.rows.items()
        )
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        return f"<table><tbody>{rows}</tbody></table>{notes}"

    def _state(self, seconds: float) -> str:
        if (step := self.step) is None:
            return duration(seconds)
        parts = [f"{step.step}/{step.total}", duration(seconds), _rate(step, seconds), _metrics(step.metrics, 60)]
        return "  ".join(part for part in parts if part)


class Lines:
    """One plain line per phase, for logs."""

    def __init__(self) -> None:
        self.began, self.last, self.notes = 0.0, None, 0
        self.step: events.Stepped | None = None

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.PhaseStarted):
            self.began, self.step = event.seconds, None
        elif isinstance(event, events.Stepped):
            self.step = event
        elif isinstance(event, events.Message):
            self.say(event.text)
        elif isinstance(event, events.PhaseEnded):
            spent, step = event.seconds - self.began, self.step
            parts = [event.phase, f"{spent:.1f} s"]
            if step is not None:
                parts = [event.phase, f"{step.step}/{step.total}", f"{spent:.1f} s", _rate(step, spent), _metrics(step.metrics)]
            self.say("  ".join(part for part in parts if part) + ("  (stopped early)" if event.stopped else ""))

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Bars:
    """One bar per phase: step of total, images/s, remaining time, and as many losses as fit."""

    #: Columns before the losses.
    width = 65

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.task: TaskID | None = None
        self.began = self.drawn = 0.0

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.PhaseStarted):
            self.began, self.drawn = event.seconds, 0.0
            self.task = self.bars.add_task(event.phase, total=None, steps="", rate="", metrics="")
        elif isinstance(event, events.Stepped) and self.task is not None:
            now = time.monotonic()
            if now - self.drawn >= _REFRESH or event.step == event.total:
                self.drawn = now
                rate = _rate(event, event.seconds - self.began)
                metrics = _metrics(event.metrics, self.bars.console.width - self.width)
                steps = f"{event.step}/{event.total}"
                self.bars.update(self.task, completed=event.step, total=event.total, steps=steps, rate=rate, metrics=metrics)
        elif isinstance(event, events.PhaseEnded) and self.task is not None:
            bar = self.bars.tasks[self.bars.task_ids.index(self.task)]
            if bar.total is None:
                self.bars.update(self.task, total=1, completed=1)  # a phase without steps is a full bar
            elif event.stopped:
                self.bars.update(self.task, rate="stopped early")
            self.bars.stop_task(self.task)
        elif isinstance(event, events.Message):
            self.bars.console.print(event.text)


def _rate(event: events.Stepped, seconds: float) -> str:
    return f"{event.images * event.step / seconds:.0f} images/s" if event.images and seconds > 0 else ""


def _metrics(metrics: Mapping[str, Any], room: int = 1000) -> str:
    """As many metrics as fit into ``room`` columns, each of them whole."""
    text = ""
    for name, value in metrics.items():
        longer = f"{text}  {name} {float(value):.4g}".strip()
        if len(longer) > room:
            break
        text = longer
    return text
