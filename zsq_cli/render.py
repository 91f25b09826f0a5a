"""Tables, progress and JSON: everything that the commands print. No algorithm, and no torch."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zsq import events

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from zsq._manager import Found, Plugin
    from zsq._plan import Plan
    from zsq.options import Options

_STATUS = {"ok": "green", "broken": "red", "blocked": "yellow"}
_RESULT = {"passed": "green", "failed": "red", "skipped": "yellow"}
#: Columns when the output is a pipe: nothing is cut that a terminal would have shown.
_PIPE_WIDTH = 140
#: Seconds between two readings of metrics; reading a tensor may wait for the device.
_REFRESH = 0.25


def console(error: bool = False) -> Console:
    """Standard output or standard error as rich sees it; nothing printed is taken for markup."""
    stream = sys.stderr if error else sys.stdout
    return Console(stderr=error, width=None if stream.isatty() else _PIPE_WIDTH, markup=False, emoji=False, highlight=False)


def print_json(value: Any) -> None:
    """``value`` on standard output; sets are sorted lists, paths are text."""
    json.dump(value, sys.stdout, indent=1, default=lambda v: sorted(v) if isinstance(v, (set, frozenset)) else str(v))
    sys.stdout.write("\n")


def table(rows: Iterable[Sequence[Any]], *headers: str, title: str = "", styles: Sequence[str] = ()) -> Table:
    """A table without lines; the first column is bold, empty cells stay empty."""
    result = Table(
        *headers, title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=any(headers)
    )
    for index, column in enumerate(result.columns):
        column.style = styles[index] if index < len(styles) else ("bold" if index == 0 else "")
        column.overflow = "fold"
    for row in rows:
        result.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return result


def indented(content: Any) -> Padding:
    """Two columns to the right."""
    return Padding(content, (0, 0, 0, 2))


# -- components and plugins --------------------------------------------------------------------------------------------


def option_table(options: type[Options], values: Mapping[str, Any] | None = None) -> Table:
    """Name, type, default and help of every option; ``values`` are a preset's, shown instead of the defaults."""
    rows = []
    for row in options.describe():
        default = (values or {}).get(row.name, row.default)
        text = f"{row.help} {_sentence(row.bounds)}".strip()
        rows.append((row.name, row.type, "none" if default is None else _value(default), text))
    return table(rows, "option", "type", "default", "meaning", styles=("bold", "cyan", "", ""))


def component_panel(found: Found) -> Group:
    """Everything about one component, as ``zsq show`` prints it."""
    component, preset = found.component, found.preset
    head = Text.assemble((preset or component.name, "bold"), f"  {found.role.words}", (f"  {found.provider}", "dim"))
    facts = [
        ("preset of", component.name if preset else ""),
        ("paper", component.paper),
        ("needs", ", ".join(sorted(component.needs))),
        ("provides", ", ".join(sorted(component.provides))),
        ("presets", ", ".join(component.presets) if not preset else ""),
        ("brings", _fragment(component.suggests)),
        ("code", component.target),
    ]
    parts: list[Any] = [head, Text(component.summary)] if component.summary else [head]
    parts.append(indented(table([row for row in facts if row[1]], "", "", styles=("dim", ""))))
    if component.options.describe():
        parts += [Text(f"\nOptions (--set {_set_key(found)}.OPTION=VALUE)"), indented(option_table(component.options, found.values))]
    else:
        parts.append(Text("It has no options."))
    return Group(*parts)


def component_dict(found: Found) -> dict[str, Any]:
    """The same as plain values, for ``zsq show --json``."""
    component = found.component
    return {
        "name": found.preset or component.name,
        "component": component.name,
        "role": found.role.value,
        "provider": found.provider,
        "summary": component.summary,
        "paper": component.paper,
        "needs": sorted(component.needs),
        "provides": sorted(component.provides),
        "presets": {name: dict(values) for name, values in component.presets.items()},
        "suggests": dict(component.suggests),
        "target": component.target,
        "options": [
            {
                "name": r.name,
                "type": r.type,
                "default": r.default,
                "value": found.values.get(r.name, r.default),
                "bounds": r.bounds,
                "help": r.help,
            }
            for r in component.options.describe()
        ],
    }


def options_help(found: Found) -> Group:
    """What ``zsq run --synth NAME --help`` appends for one component."""
    head = Text(f"\nOptions of {found.role.words} '{found.preset or found.component.name}' (--set {_set_key(found)}.OPTION=VALUE):")
    return Group(head, indented(option_table(found.component.options, found.values)))


def plugin_table(plugins: Iterable[Plugin], role: str | None = None) -> Group:
    """One row per plugin: version, status, and what it provides or why it is broken."""
    rows = []
    for plugin in plugins:
        provides = "; ".join(f"{r}: {', '.join(names)}" for r, names in provided(plugin).items() if role in (None, r))
        if role and not provides and plugin.status == "ok":
            continue
        status = Text(plugin.status, style=_STATUS.get(plugin.status, ""))
        rows.append((plugin.name, plugin.distribution, plugin.version, status, provides if plugin.status == "ok" else plugin.reason))
    return Group(table(rows, "plugin", "distribution", "version", "status", "provides, or reason", styles=("bold", "dim", "dim", "", "")))


def plugin_dict(plugin: Plugin) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": plugin.status,
        "reason": plugin.reason,
        "provides": provided(plugin),
    }


def provided(plugin: Plugin) -> dict[str, list[str]]:
    """Role to the names of the plugin's components, presets left out."""
    names: dict[str, list[str]] = {}
    for found in plugin.components:
        known = names.setdefault(found.role.value, [])
        if found.component.name not in known:
            known.append(found.component.name)
    return names


# -- plans, reports, checks --------------------------------------------------------------------------------------------


def plan_table(plan: Plan) -> Group:
    """A plan's components with provider, needs and settings, then what runs in each step."""
    rows = []
    for choice in (*plan.choices, *plan.logs):
        name = f"{choice.weight:g} x {choice.name}" if choice.weight != 1 else choice.name
        settings = ", ".join(f"{key}={_value(value)}" for key, value in choice.settings.items())
        rows.append(
            (choice.role.value, name, choice.provider, ", ".join(sorted(choice.needs)), ", ".join(sorted(choice.provides)), settings)
        )
    forwards = [f"{key}: {runs['teacher']} teacher, {runs['student']} student" for key, runs in plan.forwards().items()]
    facts = [
        ("teacher", (plan.recipe.teacher or {}).get("ref", "")),
        ("task", plan.task.name),
        ("forwards per step", "; ".join(forwards)),
        ("run", ", ".join(f"{key} {_value(value)}" for key, value in plan.run.to_dict().items() if value is not None)),
        *(("note", note) for note in plan.notes),
    ]
    chain = table(rows, "role", "component", "provider", "needs", "provides", "set", styles=("dim", "bold", "dim"))
    return Group(chain, "", table(facts, "", "", styles=("dim", "")))


def report_table(report: Mapping[str, Any], folder: Path | None = None) -> Table:
    """The closing table: what came out, beside the teacher's own figures under the same protocol."""
    teacher, student = report["teacher"], report["student"]
    own, metrics = teacher["metrics"], student["metrics"]
    rows: list[tuple[str, str]] = [("teacher", teacher["ref"])]
    for name, value in metrics.items():
        if name in own:
            drop = own[name] - value
            rows += [(f"teacher {name}", f"{own[name]:.2f}"), (f"student {name}", f"{value:.2f}"), ("drop", f"{drop:.2f}")]
            if name in (student.get("calibrated") or {}):
                rows.append((f"before tuning {name}", f"{student['calibrated'][name]:.2f}"))
        else:
            label = f"agreement, % of {teacher.get('unit', 'images')}" if name == "agreement" else name.replace("_", " ")
            rows.append((label, f"{value:g}" if value == int(value) else f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"))
    bits = f"weights {student['weight_bits']}, activations {student['act_bits'] or 'in float'}"
    rows += [("bits", bits), ("protocol", student["protocol"])]
    if parts := student.get("float_parts"):
        rows.append(("in float", ", ".join(parts)))
    if student.get("size_bytes"):
        before, after = teacher.get("size_bytes") or 0, student["size_bytes"]
        ratio = f" ({before / after:.1f} times smaller)" if before > after else ""
        rows.append(("size", f"{size_text(before)} -> {size_text(after)}{ratio}" if before else size_text(after)))
    cut = [f"{p['name']} at {p['steps']} of {p['total']} steps" for p in report["phases"] if p.get("steps", 0) < p.get("total", 0)]
    seconds = duration(report["wall_s"]) + (f", cut by the budget: {', '.join(cut) or 'schedules'}" if report.get("stopped") else "")
    rows += [("time", seconds), ("real images", str(report["images_evaluated"]) if report["images_evaluated"] else "none evaluated")]
    if folder is not None:
        rows.append(("saved in", str(folder)))
    return table(rows, "", "", styles=("dim", "bold"))


def metrics_table(student: Mapping[str, float], teacher: Mapping[str, float]) -> Table:
    """Metrics of a saved student, with the teacher's where its report has them."""
    rows = []
    for name, value in student.items():
        own = teacher.get(name)
        rows.append((name, f"{value:.6g}", "" if own is None else f"{own:.6g}", "" if own is None else f"{own - value:.4g}"))
    return table(rows, "metric", "student", "teacher", "drop")


def check_table(rows: Iterable[tuple[str, str, str, str]]) -> Table:
    """Component, check, result, reason."""
    cells = [(name, check, Text(result, style=_RESULT.get(result, "")), reason) for name, check, result, reason in rows]
    return table(cells, "component", "check", "result", "reason")


# -- progress ----------------------------------------------------------------------------------------------------------


@contextmanager
def progress() -> Iterator[Any]:
    """A listener for events: bars on a terminal, otherwise one line per phase; always on standard error."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    steps = TextColumn("{task.fields[steps]:>9}")
    columns = (TextColumn("{task.description:<20.20}"), BarColumn(10), steps, TextColumn("{task.fields[rate]:>13}"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[metrics]}", style="dim"), console=console(error=True), refresh_per_second=4) as bars:
        yield Bars(bars)


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
    """One bar per phase: step of total, images/s, time left, and as many losses as there is room for."""

    #: Columns that stand before the losses.
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
    """As many metrics as fit into ``room`` columns, none of them cut."""
    text = ""
    for name, value in metrics.items():
        longer = f"{text}  {name} {float(value):.4g}".strip()
        if len(longer) > room:
            break
        text = longer
    return text


# -- small texts -------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """``8.1 s``, ``4 min 05 s``."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def size_text(count: float) -> str:
    """``163.0 kB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (tuple, list)):
        return ",".join(map(_value, value)) or "empty"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _fragment(value: Any) -> str:
    """Nested plain values on one line, as YAML's flow style would have them, without the outer braces."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {{{_fragment(v)}}}" if isinstance(v, Mapping) else f"{k}: {_fragment(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(f"{{{_fragment(v)}}}" if isinstance(v, Mapping) else _fragment(v) for v in value) + "]"
    return _value(value)


def _set_key(found: Found) -> str:
    name = found.preset or found.component.name
    return f"{found.role.value}.{name}" if found.role.value in ("calib", "loss", "eval", "export", "log") else found.role.value


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""
