"""Answers with places, masks and boxes: both networks' side by side on the page and as a picture, whatever the task is called."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from zsq_report.answers import DRAWN, draw

from zsq.errors import ZsqError
from zsq.protocols import Box, Drawing

from .conftest import Made, make

pytestmark = pytest.mark.xdist_group("report")

HEIGHT, WIDTH = 24, 32
NETWORKS = """
import torch
from torch import nn

from zsq.testing.teachers import settled


class Areas(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        return nn.functional.interpolate(self.classifier(self.body(x)), scale_factor=2.0)


class Boxes(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        from zsq_detect.boxes import Priors, grid
        from zsq_detect.decoding import Decoding

        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.scores, self.boxes = nn.Conv2d(8, classes, 1), nn.Conv2d(8, 4, 1)
        self.decoding = Decoding(Priors(grid((6, 8), 4, 10.0)), overlap=0.2)

    def forward(self, x):
        x = self.body(x)
        return tuple(head(x).flatten(2).transpose(1, 2) for head in (self.scores, self.boxes))


def areas():
    return settled(Areas(), torch.randn(16, 3, 24, 32))


def boxes():
    return settled(Boxes(), torch.randn(16, 3, 24, 32))
"""
KINDS = {"areas": ("segment", "pixels"), "boxes": ("detect", "priors")}


def labelled(folder: Path) -> Path:
    """Three images of noise, with a class for every pixel."""
    rng = np.random.default_rng(0)
    for kind, shape, most in (("images", (HEIGHT, WIDTH, 3), 256), ("labels", (HEIGHT, WIDTH), 3)):
        (folder / kind).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, most, shape, dtype=np.uint8)).save(folder / kind / f"{i}.png")
    return folder


@pytest.fixture(scope="module", params=sorted(KINDS))
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Made]:
    """A run of a tiny network of each kind: what it draws, its unit, and what it left."""
    task, unit = KINDS[request.param]
    pytest.importorskip(f"zsq_{task}")
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "nets.py").write_text(NETWORKS)
    half = [0.5, 0.5, 0.5]
    teacher = {"ref": f"py:{folder / 'nets.py'}:{request.param}", "task": task, "shape": [3, HEIGHT, WIDTH], "mean": half, "std": half}
    recipe = {
        "teacher": teacher,
        "synth": "noise",
        "quant": "uniform4",
        "calib": [{"name": "minmax", "batches": 1}],
        "tune": "none",
        "eval": [
            *([{"name": "segmentation", "ref": str(labelled(folder / "val"))}] if task == "segment" else []),
            {"name": "agreement", "images": 8},
        ],
        "run": {"batch_size": 8},
    }
    return request.param, unit, make(recipe, folder / "run", "report", task)


@pytest.fixture(scope="module", params=[(390, "light"), (1440, "dark")], ids=["390-light", "1440-dark"])
def page(request: pytest.FixtureRequest, chromium: Any, drawn: Any) -> Iterator[Any]:
    width, scheme = request.param
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.faults, page.kind = [], drawn[0]
    page.on("console", lambda message: page.faults.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(drawn[2].page.as_uri())
    yield page
    context.close()


def test_the_page_tells_the_task_s_own_unit(drawn: tuple[str, str, Made]) -> None:
    kind, unit, made = drawn
    text = made.page.read_text()
    assert made.report["teacher"]["unit"] == unit
    if kind == "areas":
        assert "On 3 real images the student reaches a miou of <strong>" in text and "IoU in percent" in text
        assert (made.folder / "pictures" / "classes.svg").exists() and "Metrics are of 3 real images" in text
    else:
        assert f"%</strong> of the {unit} of synthetic images" in " ".join(text.split()), "not evaluated"
    assert f"agreement, % of {unit}" in text and f"agrees on {made.report['student']['metrics']['agreement']:.1f} % of {unit}" in text
    assert f"agreement with the teacher, % of {unit}" in (made.folder / "README.md").read_text()
    images = made.report["images"]
    assert images is not None and images["effective_rank"] > 1 and images["cosine_distance"] > 0
    assert (images["confidence"] is None) == (kind == "boxes") and (f"this teacher's {unit} need not have one class" in text) == (
        kind == "boxes"
    )


def test_the_picture_holds_every_pair(drawn: tuple[str, str, Made]) -> None:
    with Image.open(drawn[2].folder / "pictures" / "answers.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[0] > 5 * pixels.shape[1] / 2 and pixels.std() > 10
    left, right = np.split(pixels[:, : pixels.shape[1] // 2 * 2], 2, axis=1)
    assert left.std() > 10 and right.std() > 10


def test_both_sides_are_drawn(page: Any) -> None:
    assert page.faults == []
    drawings = page.locator("#answers .sides svg")
    assert drawings.count() == 2 * DRAWN
    kinds = {"areas": "image.mask", "boxes": "rect.box"}
    assert (
        drawings.locator(kinds[page.kind]).count() > 0
        and drawings.locator(kinds["boxes" if page.kind == "areas" else "areas"]).count() == 0
    )
    for at in (0, 1):
        pixels = np.asarray(Image.open(io.BytesIO(drawings.nth(at).screenshot())).convert("RGB")).astype(int)
        assert pixels.std() > 15, "nothing is seen"
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    teacher, student = (drawings.nth(at).bounding_box() for at in (0, 1))
    assert teacher["y"] == student["y"] and teacher["x"] + teacher["width"] <= student["x"], "side by side, at 390 pixels too"
    assert teacher["width"] >= 120


def test_what_is_drawn_is_told_as_well(page: Any) -> None:
    labels = page.evaluate("Array.from(document.querySelectorAll('#answers svg')).map(e => e.getAttribute('aria-label'))")
    assert labels[0].startswith("Image 1, teacher: ") and labels[1].startswith("Image 1, student: ")
    assert ("%" in labels[0]) and (page.kind == "areas" or "box" in labels[0])
    legend = page.locator("#answers .legend li")
    assert legend.count() >= 1 and all(text.strip() for text in legend.all_inner_texts())
    colours = page.evaluate("Array.from(document.querySelectorAll('.swatch')).map(e => getComputedStyle(e).backgroundColor)")
    assert len(set(colours)) == len(colours) == legend.count()


def test_it_fits_and_can_be_used(page: Any, axe: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(v["id"], v["nodes"][0]["target"]) for v in found if v["impact"] in ("serious", "critical")] == []


class Boxed:
    """A task of nobody's: one box for every image."""

    classes = 2

    def logits(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def draw(self, output: torch.Tensor, teacher: Any) -> list[Drawing]:
        if not output.numel():
            raise ZsqError("it cannot be drawn", "here", "")
        return [Drawing("one", ("a", "b"), boxes=(Box((0, 0, 1, 1), int(row.argmax()), 0.5),)) for row in output]


class Owner:
    task = Boxed()


def test_drawings_are_those_of_any_task() -> None:
    theirs = torch.eye(2).repeat(10, 1)
    ours = theirs.clone()
    ours[1] = ours[0]
    found = draw(Owner(), [theirs], [ours])  # type: ignore[arg-type]
    assert len(found.teacher) == len(found.student) == len(found.alike) == DRAWN
    assert found.alike == [100, 0] + 6 * [100]
    assert [name for name, _ in found.colours.values()] == ["a", "b"], "the most frequent first"
    assert draw(Owner(), [theirs[:0]], [ours[:0]]).missing == "it cannot be drawn"  # type: ignore[arg-type]


def test_a_picture_says_nothing_where_an_image_has_one_class(made: Made) -> None:
    assert not (made.folder / "pictures" / "answers.png").exists() and "side by side" not in made.page.read_text()


def test_small_pools_show_every_image_once(recipe: dict[str, Any], tmp_path: Path) -> None:
    made = make({**recipe, "synth": {"name": "zeroq", "images": 6, "batch": 6, "iterations": 1}}, tmp_path / "run", "report", "zeroq")
    assert made.page.read_text().count("<img ") == 6
