"""The staged chains on the real teacher and real test images: distilled images, calibration only, and SQuant with learned clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zsq._compose import compose
from zsq._manager import Manager
from zsq._recipe import Recipe
from zsq._run.engine import run

SHARED = Path(__file__).parents[3] / "shared"
WEIGHTS, IMAGES = SHARED / "teachers/resnet20-cifar10.safetensors", SHARED / "data/cifar10-test-5k.npz"

pytestmark = [
    pytest.mark.accuracy,
    pytest.mark.slow,
    pytest.mark.skipif(not (WEIGHTS.is_file() and IMAGES.is_file()), reason="needs the teacher and the test images of ../shared"),
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("staged"),  # all runs share one pool
]


@pytest.fixture(scope="module")
def top1(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[float, float]]:
    """``top1(synth, quant, **sections)``: of the teacher and of the student; all runs share one pool, and the same run is made once."""
    cache, manager = tmp_path_factory.mktemp("cache"), Manager.discover()
    done: dict[str, tuple[float, float]] = {}

    def measured(synth: str, quant: Any, **sections: Any) -> tuple[float, float]:
        images = {"name": synth, **({"images": 256} if synth == "zeroq" else {})}  # a third of the usual number: time
        teacher = {"ref": "py:zsq_zoo.resnet:resnet20", "weights": str(WEIGHTS)}
        evaluation = [{"name": "npz", "ref": str(IMAGES)}]
        entry = quant if isinstance(quant, dict) else {"name": quant}
        recipe = Recipe.from_dict({"teacher": teacher, "synth": images, "quant": entry, "eval": evaluation, **sections})
        if (key := repr((synth, quant, sections))) not in done:
            report = run(compose(recipe, manager), manager=manager, cache=cache).report
            done[key] = report["teacher"]["metrics"]["top1"], report["student"]["metrics"]["top1"]
        return done[key]

    return measured


def test_distilled_images_calibrate(top1: Any) -> None:
    """8 bits within 0.2 points, 5 bits within 1.5, 4 bits at least 88.5; nothing tuned."""
    teacher, eight = top1("zeroq", "uniform8")
    assert teacher - eight <= 0.2
    assert teacher - top1("zeroq", "uniform5")[1] <= 1.5
    assert top1("zeroq", "uniform4")[1] >= 88.5


@pytest.mark.parametrize(("quant", "reached"), [("squant4", 89.4), ("squant3", 82.0)])
def test_rounding_and_distilled_images_without_tuning(top1: Any, quant: str, reached: float) -> None:
    assert top1("zeroq", quant)[1] >= reached


@pytest.mark.parametrize(("quant", "reached"), [("squant4", 90.0), ("squant3", 85.0)])
def test_clips_improve_on_their_calibration(top1: Any, quant: str, reached: float) -> None:
    tuned = top1("zeroq", quant, tune={"name": "clips"})[1]
    assert tuned >= reached
    assert tuned >= top1("zeroq", quant)[1] - 0.2  # the spread between seeds


def test_without_any_image(top1: Any) -> None:
    teacher, student = top1("none", "squant8")
    assert teacher - student <= 0.3
