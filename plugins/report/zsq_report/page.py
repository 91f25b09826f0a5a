"""The page: a template filled with figures. One file; its style, script and pictures are inside, and its policy lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from zsq_report.charts import average
from zsq_report.classes import wilson
from zsq_report.look import Chart

_TEMPLATES = Path(__file__).parent / "templates"
#: Sections of a recipe in the order of a run, with what a page calls them.
_CHAIN = {"teacher": "teacher", "synth": "images", "quant": "quantizer", "calib": "calibration", "loss": "loss", "tune": "tuning",
          "eval": "evaluation", "export": "files", "run": "run"}  # fmt: skip


#: Metrics that are a share of images that were answered rightly, in percent, and what they are called.
_TITLES = {"top1": "top-1"}


def render(*, report: Mapping[str, Any], recipe: str, **parts: Any) -> str:
    """The page as text.

    Args:
        report: ``report.json``.
        recipe: ``recipe.yaml``, as text.
        parts: What else the template shows: ``seen``, ``classes``, ``by_class``, ``notes``, ``tiles``, ``pairs``, ``charts``,
            ``unit``.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bytes": _bytes, "seconds": _seconds, "number": _number, "inline": _inline}
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        report=report,
        recipe=recipe,
        head=_head(report),
        chain=_chain(report["recipe"]),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; form-action 'none'",
        average=average,
        **parts,
    )


def _inline(chart: Chart) -> Markup:
    return Markup(chart.inline)


def headline(report: Mapping[str, Any]) -> str:
    """The metric that a page begins with: top-1 where both networks have it, else the first that both have; empty without any, but for
    images of one class each."""
    own, metrics = report["teacher"]["metrics"], report["student"]["metrics"]
    both = [name for name in metrics if name in own and name != "images"] if report["images_evaluated"] else []
    if "top1" in both or (not both and report["teacher"]["unit"] == "images"):
        return "top1"
    return both[0] if both else ""


def _head(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the first screen says."""
    teacher, student = report["teacher"], report["student"]
    width = f"W{student['weight_bits'] or 32}A{student['act_bits'] or 32}"
    metric, n = headline(report), report["images_evaluated"]
    value, own = (network["metrics"].get(metric) for network in (student, teacher))
    ratio = teacher["size_bytes"] / student["size_bytes"] if student["size_bytes"] else None
    return {
        "name": _name(teacher["ref"]),
        "width": width,
        "metric": _TITLES.get(metric, metric.replace("_", " ")),
        "share": metric in _TITLES,
        "student": value,
        "teacher": own,
        "drop": own - value if value is not None and own is not None else None,
        "agreement": student["metrics"].get("agreement"),
        "ratio": ratio,
        "interval": wilson(value, n) if value is not None and metric in _TITLES else None,
        "others": {k: (v, teacher["metrics"].get(k)) for k, v in student["metrics"].items() if k not in (metric, "images")},
    }


def _name(ref: str) -> str:
    """What to call a teacher: the last word of its reference, but the file's name where that is a Python file."""
    file, _, last = ref.rpartition("/")[2].rpartition(":")
    return file.removesuffix(".py") if file.endswith(".py") else last or "teacher"


def _chain(recipe: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per component: its role, its name, and what was set."""
    rows = []
    for section, role in _CHAIN.items():
        value = recipe.get(section)
        for entry in value if isinstance(value, list) else [value] if value else []:
            values = dict(entry)
            name = ":".join(str(values.pop(key)) for key in ("name", "ref") if values.get(key)) or "options"
            rows.append({"role": role, "name": name, "settings": ", ".join(f"{k} = {_plain(v)}" for k, v in values.items())})
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return {"True": "yes", "False": "no", "None": "none"}.get(str(value), str(value))


def _bytes(size: float) -> str:
    """In the largest unit of 1000 bytes that leaves a whole number before the point."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _seconds(value: float) -> str:
    if value < 100:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _number(value: float | None, digits: int = 2) -> str:
    """To so many digits after the point, none of a whole number of type int, with a minus that is one; a dash for what is not known."""
    if isinstance(value, int):
        digits = 0
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")
