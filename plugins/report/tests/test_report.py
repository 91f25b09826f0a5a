"""What a run with the plugin leaves: the page and its pictures, the same student, and little time spent."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from zsq.events import Event, Publishing
from zsq.testing.world import Manager

from .conftest import Made, make

pytestmark = pytest.mark.xdist_group("report")  # one run for all


def test_page_and_pictures_are_in_the_folder(made: Made) -> None:
    names = {path.name for path in (made.folder / "pictures").iterdir()}
    assert names >= {"noise.svg", "ranges.svg", "histograms-weights.svg", "histograms-activations.svg", "statistics.svg", "images.svg",
                     "classes.svg", "confusion.svg"}  # fmt: skip
    assert any(name.startswith("curves-") for name in names)
    for path in (made.folder / "pictures").iterdir():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert "var(--" not in path.read_text(), "a file of its own has colours of its own"


def test_it_says_what_the_run_reports(made: Made) -> None:
    text = made.page.read_text()
    teacher, student = made.report["teacher"]["metrics"]["top1"], made.report["student"]["metrics"]["top1"]
    for told in (
        f"{teacher:.2f}",
        f"{student:.2f}",
        f"{abs(teacher - student):.2f}",
        "W4A4",
        "64 real images",
        made.report["hardware"]["isa"],
    ):
        assert told in text, told
    for row in made.report["student"]["layers"]:
        if row["wrapped"]:
            assert f">{row['path']}</th>" in text


def test_nothing_from_outside_is_named(made: Made) -> None:
    text = made.page.read_text()
    assert not re.search(r"""(?:src|href|action)\s*=\s*["'](?!#|data:)|url\((?!#)|@import""", text)
    assert "Content-Security-Policy" in text


def test_the_student_is_the_same_without_it(recipe: dict[str, Any], made: Made, tmp_path: Path) -> None:
    without = make(recipe, tmp_path / "run", "builtin-only")
    assert not without.page.exists() and not (without.folder / "pictures").exists()
    for name in ("model.safetensors", "recipe.yaml", "images.png"):
        assert (without.folder / name).read_bytes() == (made.folder / name).read_bytes(), name


def test_the_same_run_gives_the_same_page(recipe: dict[str, Any], made: Made, tmp_path: Path) -> None:
    again = make(recipe, tmp_path / "run")
    for path in (made.folder / "pictures").iterdir():
        assert path.read_bytes() == (again.folder / "pictures" / path.name).read_bytes(), path.name


def test_it_costs_little(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Measured around the event that it works on; importing what draws included where it is the first."""
    spent: list[float] = []
    manager = Manager.discover(only=["report"])
    emit = manager.emit

    def timed(event: Event) -> None:
        began = time.process_time()
        emit(event)
        spent.append(time.process_time() - began)

    manager.emit = timed  # type: ignore[method-assign]
    from zsq import Recipe
    from zsq.testing.world import compose, run

    run(compose(Recipe.from_dict(recipe), manager), tmp_path / "run", manager=manager)
    added = [tmp_path / "run" / "report.html", *(tmp_path / "run" / "pictures").iterdir()]
    assert sum(spent) < 5
    assert sum(path.stat().st_size for path in added) < 3_000_000


def test_names_of_others_are_text_and_never_markup(recipe: dict[str, Any], made: Made, tmp_path: Path) -> None:
    caught: list[Publishing] = []
    make(recipe, tmp_path / "run", "none", listeners=[lambda e: caught.append(e) if isinstance(e, Publishing) else None])
    from dataclasses import replace

    from zsq_report.write import write

    hostile = "</script><img src=x onerror=alert(1)>$x_{1}$"
    event = caught[0]
    labels = tuple(f"{hostile}{i}" for i in range(4))
    teacher = replace(event.ctx.teacher, labels=labels)
    report = {**event.report, "teacher": {**event.report["teacher"], "ref": f"py:{hostile}"}}
    (tmp_path / "out").mkdir()
    write(replace(event, report=report, ctx=event.ctx.with_(teacher=teacher), folder=tmp_path / "out"), [])

    class Tags(HTMLParser):
        seen: list[tuple[str, dict[str, str | None]]] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen.append((tag, dict(attrs)))

    tags = Tags()
    tags.feed((tmp_path / "out" / "report.html").read_text())
    assert sum(tag == "script" for tag, _ in tags.seen) == 1
    assert not any("onerror" in attrs for _, attrs in tags.seen)
    assert all(str(attrs["src"]).startswith("data:") for tag, attrs in tags.seen if tag == "img")


def test_without_images_labels_and_batch_norm(tmp_path: Path) -> None:
    plain = {"ref": "py:zsq.testing.teachers:Plain", "shape": [3, 8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}
    made = make({"teacher": plain, "quant": "uniform8", "tune": "none", "eval": ["agreement"]}, tmp_path / "run")
    text = made.page.read_text()
    for told in ("No real images were evaluated", "has no BatchNorm layer", "No images with labels", "No phase of this run"):
        assert told in text, told
    assert not np.isnan(made.report["student"]["metrics"]["agreement"])


def test_a_failure_costs_the_report_and_not_the_run(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    import zsq_report.write

    def broken(*_: Any) -> None:
        raise RuntimeError("no paper")

    monkeypatch.setattr(zsq_report.write, "look", broken)
    made = make(recipe, tmp_path / "run")
    assert (made.folder / "model.safetensors").exists() and not made.page.exists()
    assert "plugin 'report'" in caplog.text and "no paper" in caplog.text


def test_the_student_is_left_as_it_was(recipe: dict[str, Any], tmp_path: Path) -> None:
    from zsq_report.measure import look

    def heard(event: Event) -> None:
        if isinstance(event, Publishing):
            module = event.ctx.student.module
            before = {k: v.clone() for k, v in module.state_dict().items()}
            look(event.ctx)
            seen.append(all(torch.allclose(v, before[k], 0, 0, equal_nan=True) for k, v in module.state_dict().items()))
            seen.append(not any(m._forward_hooks for m in (*module.modules(), *event.ctx.teacher.module.modules())))

    seen: list[bool] = []
    make(recipe, tmp_path / "run", "none", listeners=[heard])
    assert seen == [True, True]
