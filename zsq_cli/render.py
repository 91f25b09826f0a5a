"""The output of the commands: tables, progress and JSON. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zsq._api.progress import progress as progress
from zsq._api.tables import console as console
from zsq._api.tables import duration as duration
from zsq._api.tables import metrics_table as metrics_table
from zsq._api.tables import report_table as report_table
from zsq._api.tables import size_text as size_text
from zsq._api.tables import table as table

if TYPE_CHECKING:
    from zsq._plan import Plan
    from zsq._plugin import Found, Plugin
    from zsq.options import Options

_STATUS = {"ok": "green", "broken": "red", "blocked": "yellow"}
_RESULT = {"passed": "green", "failed": "red", "skipped": "yellow"}


def print_json(value: Any) -> None:
    """Print ``value`` on standard output; sets become sorted lists, paths text."""
    json.dump(value, sys.stdout, indent=1, default=lambda v: sorted(v) if isinstance(v, (set, frozenset)) else str(v))
    sys.stdout.write("\n")


def indented(content: Any) -> Padding:
    """Two columns to the right."""
    return Padding(content, (0, 0, 0, 2))


# -- components and plugins --------------------------------------------------------------------------------------------


def option_table(options: type[Options], values: Mapping[str, Any] | None = None) -> Table:
    """Name, type, default and help of every option; ``values`` of a preset replace the defaults."""
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
    """The options of one component, for ``zsq run --synth NAME --help``."""
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
    """Role to the names of the plugin's components, without presets."""
    names: dict[str, list[str]] = {}
    for found in plugin.components:
        known = names.setdefault(found.role.value, [])
        if found.component.name not in known:
            known.append(found.component.name)
    return names


# -- plans, reports, checks --------------------------------------------------------------------------------------------


def plan_table(plan: Plan) -> Group:
    """The components of a plan with provider, needs and settings, and the forward passes of each step."""
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
        ("forward passes per step", "; ".join(forwards)),
        ("run", ", ".join(f"{key} {_value(value)}" for key, value in plan.run.to_dict().items() if value is not None)),
        *(("note", note) for note in plan.notes),
    ]
    chain = table(rows, "role", "component", "provider", "needs", "provides", "set", styles=("dim", "bold", "dim"))
    return Group(chain, "", table(facts, "", "", styles=("dim", "")))


def check_table(rows: Iterable[tuple[str, str, str, str]]) -> Table:
    """Component, check, result, reason."""
    cells = [(name, check, Text(result, style=_RESULT.get(result, "")), reason) for name, check, result, reason in rows]
    return table(cells, "component", "check", "result", "reason")


# -- small texts -------------------------------------------------------------------------------------------------------


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (tuple, list)):
        return ",".join(map(_value, value)) or "empty"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _fragment(value: Any) -> str:
    """Nested plain values on one line, in YAML's flow style, without the outer braces."""
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
