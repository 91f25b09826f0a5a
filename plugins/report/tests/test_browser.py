"""The page in a real Chromium: nothing leaves it, nothing fails, everything is there, and everybody can use it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.xdist_group("report")  # one run and one browser for all

WIDTHS = (390, 1440)
SECTIONS = ("summary", "asked", "images", "layers", "statistics", "curves", "classes", "machine", "recipe")


@pytest.fixture(
    scope="module", params=[(width, scheme) for width in WIDTHS for scheme in ("light", "dark")], ids=lambda p: f"{p[0]}-{p[1]}"
)
def page(request: pytest.FixtureRequest, chromium: Any, made: Any) -> Iterator[Any]:
    """The open page, with what happened on the way in ``page.faults`` and ``page.asked``."""
    width, scheme = request.param
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.faults, page.asked = [], []
    page.on("console", lambda message: page.faults.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(made.page.as_uri())
    yield page
    context.close()


def _pixels(locator: Any) -> Any:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def test_no_error_and_no_request_leaves_the_file(page: Any, made: Any) -> None:
    page.mouse.wheel(0, 20000)
    assert page.faults == []
    assert [url for url in page.asked if not url.startswith("data:")] == [made.page.as_uri()]


def test_its_own_policy_refuses_what_comes_from_outside(page: Any) -> None:
    refused = "new Promise(done => { addEventListener('securitypolicyviolation', e => done(e.violatedDirective), {once: true});"
    page.evaluate("window.before = 0")
    assert page.evaluate(refused + " const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; })").startswith("img-src")
    page.faults.clear()
    page.asked.clear()


def test_every_section_is_there_and_seen(page: Any) -> None:
    for section in SECTIONS:
        assert page.locator(f"section#{section}").bounding_box()["height"] > 60, section
    assert page.locator("section#precision").count() == 0, "there is no frontier to show"


def test_it_fits_the_width(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    outside = "filter(e => !e.closest('.scroll, pre, nav') && e.getBoundingClientRect().right > innerWidth + 1)"
    assert page.evaluate(f"Array.from(document.querySelectorAll('main *')).{outside}.length") == 0


def test_charts_are_not_empty(page: Any) -> None:
    charts = page.locator("figure.chart svg")
    assert charts.count() >= 9
    for i in range(charts.count()):
        pixels = _pixels(charts.nth(i))
        paper = pixels[0, 0]
        differ = np.abs(pixels - paper).sum(2) > 60
        assert differ.mean() > 0.01, f"chart {i} has next to nothing in it"
        middle = differ[differ.shape[0] // 4 : -differ.shape[0] // 4, differ.shape[1] // 3 :]
        assert middle.any(), f"chart {i} has names but no figures"


def test_charts_follow_the_scheme(page: Any, request: pytest.FixtureRequest) -> None:
    dark = "dark" in request.node.name
    assert (_pixels(page.locator("figure.chart svg").first)[0, 0].mean() < 100) == dark


def test_gallery_images_are_drawn(page: Any) -> None:
    broken = "Array.from(document.images).filter(i => !i.complete || !i.naturalWidth || !i.alt).length"
    assert page.locator(".gallery img").count() == 32 and page.evaluate(broken) == 0
    assert _pixels(page.locator(".gallery img").first).std() > 10


def test_landmarks_and_headings_are_in_order(page: Any) -> None:
    for landmark in ("header", "nav[aria-label]", "main", "footer"):
        assert page.locator(landmark).count() == 1, landmark
    levels = page.evaluate("Array.from(document.querySelectorAll('h1, h2, h3')).map(e => +e.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    named = "every(e => e.getAttribute('aria-label') || document.getElementById(e.getAttribute('aria-labelledby')).textContent)"
    assert page.evaluate(f"Array.from(document.querySelectorAll('section, [role=region], [role=img]')).{named}")
    headed = "every(t => t.caption && t.querySelector('th[scope=col]') && t.querySelector('th[scope=row]'))"
    assert page.evaluate(f"Array.from(document.querySelectorAll('table')).{headed}")


def test_the_keyboard_reaches_everything(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0, "seen while it has the focus"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "summary"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.slice(0, 40)"))
    regions = page.evaluate("Array.from(document.querySelectorAll('[role=region]')).map(e => e.getAttribute('aria-label'))")
    assert regions and set(regions) <= reached and "Copy the recipe" in reached


def test_the_recipe_can_be_copied(page: Any, made: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the recipe").click()
    page.get_by_role("status").get_by_text("Copied").wait_for(timeout=3000)
    assert page.evaluate("navigator.clipboard.readText()") == (made.folder / "recipe.yaml").read_text()


def test_axe_finds_no_fault_that_is_serious(page: Any, axe: str) -> None:
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(v["id"], v["impact"], v["nodes"][0]["target"]) for v in found if v["impact"] in ("serious", "critical")] == []


def test_nothing_moves_for_those_who_ask(chromium: Any, made: Any) -> None:
    context = chromium.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(made.page.as_uri())
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    context.close()


def test_it_prints_as_a_whole(chromium: Any, made: Any) -> None:
    context = chromium.new_context(color_scheme="dark", viewport={"width": 794, "height": 1123})
    page = context.new_page()
    page.goto(made.page.as_uri())
    page.emulate_media(media="print")
    whole = "every(e => getComputedStyle(e).maxHeight == 'none' && getComputedStyle(e).overflow == 'visible')"
    assert page.evaluate(f"Array.from(document.querySelectorAll('.scroll, pre')).{whole}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 794, "nothing beside the paper"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)", (
        "on white, whatever the screen's scheme"
    )
    assert not page.locator("nav").is_visible()
    context.close()
