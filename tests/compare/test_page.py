"""The page of ``zsq compare``: complete in itself, the same figures as the table, and whatever stands in a report is text."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reports import report
from rich.console import Console

from zsq_cli.app import main
from zsq_cli.compare import values
from zsq_cli.compare.page import page as page_of
from zsq_cli.compare.ranking import rank
from zsq_cli.compare.runs import find
from zsq_cli.compare.table import tables

Add = Callable[..., Path]


class Outline(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(add: Add, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[Path, str]]:
    """Writes the page of all runs below ``runs``."""

    def write() -> tuple[Path, str]:
        path = tmp_path / "page.html"
        assert main(["compare", str(tmp_path / "runs"), "--html", str(path)]) in (0, 1)
        return path, path.read_text()

    return write


def several(add: Add) -> None:
    for seed in range(2):
        add(f"a{seed}", seed=seed, top1=90.0 + seed)
        add(f"b{seed}", synth="dreams", bits=3, seed=seed, top1=85.0, size=90_000, seconds=3.0)
    add("deploy", scheme="deploy")
    add("alone", images=0)
    (add("bad") / "report.json").write_text("{")


def test_nothing_is_loaded_and_nothing_runs(add: Add, page: Any) -> None:
    several(add)
    _, text = page()
    outline = Outline(text)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in outline.tags}
    values = [
        value or "" for _, attributes in outline.tags for key, value in attributes.items() if key in ("href", "src", "style", "xlink:href")
    ]
    assert values and all(value.startswith("#") for value in values)
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text


def test_everything_is_there(add: Add, page: Any) -> None:
    several(add)
    outline = Outline(page()[1])
    assert "90.50 ± 0.71" in outline.text and outline.text.count("The teacher's own top1") == 2
    for words in ("scheme paper", "scheme deploy", "Not ranked", "Left out", "it is not JSON", "W3A3"):
        assert words in outline.text
    charts = [attributes for attributes in outline.all("svg") if attributes.get("role") == "img"]
    assert len(charts) == 4 and len(outline.all("circle")) == 2 * 2 + 2 * 1 + 3  # points of both charts, and the keys to colours
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(attributes["href"])[1:] for attributes in outline.all("a")} <= set(ids)


def test_coordinates_are_finite_and_inside_whatever_the_values(add: Add, page: Any) -> None:
    add("one", top1=0.0, own=100.0, size=1, seconds=0.001)
    add("two", synth="dreams", top1=100.0, own=100.0, size=10**12, seconds=1e7)
    text = page()[1]
    assert "nan" not in text and "inf" not in text.replace("information", "")
    xs, ys = ([float(v) for v in re.findall(rf'c{axis}="([-\d.]+)" ', text) if v != "5"] for axis in "xy")
    assert len(xs) == len(ys) == 4 and all(52 <= x <= 440 for x in xs) and all(14 <= y <= 254 for y in ys)


def test_one_run_alone_has_its_charts(add: Add, page: Any) -> None:
    add("one")
    assert page()[1].count('role="img"') == 2


def test_what_a_report_says_is_text(add: Add, page: Any) -> None:
    evil = "<script>alert(1)</script>\"'&${title}\x1b[31m"
    path = add("one", synth=evil, teacher=evil, scheme=evil, npz=f"data/{evil}") / "report.json"
    values = json.loads(path.read_text())
    values["student"]["metrics"] = values["teacher"]["metrics"] = {evil: 50.0}
    values["hardware"] = {"cpu": evil}
    path.write_text(json.dumps(values))
    add("two", images=0, synth=evil)
    text = page()[1]
    assert "<script" not in text and "\x1b" not in text and "&lt;script&gt;" in text and "${title}" in text
    assert not Outline(text).all("script")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in a report but the long list of layers."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key != "layers":
            yield from places(item, (*path, key))


EVERY = sorted(places(report()), key=str)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(way=st.sampled_from(EVERY), value=ANYTHING)
def test_any_value_anywhere_in_a_report_is_shown_or_left_out(way: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    whole = {"report": report()}
    owner: Any = whole
    for key in ("report", *way)[:-1]:
        owner = owner[key]
    owner[("report", *way)[-1]] = value
    for name, content in (("good", report(synth="dreams")), ("odd", whole["report"])):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "report.json").write_text(json.dumps(content))
    runs, skipped = find([str(tmp_path)])
    assert len(runs) + len(skipped) == 2 and len(runs) >= 1
    rankings, alone = rank(runs)
    text = page_of(rankings, alone, skipped)
    assert sum(len(row.runs) for ranking in rankings for row in ranking.rows) + len(alone) == len(runs)
    assert not re.search(r'="[^"]*(nan|inf)', text) and Console(file=io.StringIO()).print(tables(rankings, alone)) is None
    json.dumps(values(rankings, alone, skipped), allow_nan=False)


def test_a_page_that_cannot_be_written_is_an_error(add: Add, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = add("one")
    assert main(["compare", str(folder), "--html", str(tmp_path / "none" / "page.html")]) == 2
    assert "cannot write page.html" in capsys.readouterr().err


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_in_a_browser(width: int, scheme: str, add: Add, page: Any, chromium: Any, axe: str) -> None:
    several(add)
    path, _ = page()
    view = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(path.as_uri())
    assert not said and asked == [path.as_uri()]
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [chart.bounding_box() for chart in view.locator("svg.chart").all()]
    assert len(boxes) == 4 and all(box["width"] > 300 and box["height"] > 190 for box in boxes)
    view.evaluate(axe)
    faults = view.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [fault["id"] for fault in faults if fault["impact"] in ("serious", "critical")] == []
    view.close()
