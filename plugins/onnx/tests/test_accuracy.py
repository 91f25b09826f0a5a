"""The real teacher at 4 and 8 bits: exported, compared on real images, integer from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from zsq import SavedRun
from zsq_cli.app import main

SHARED = Path(__file__).parents[4] / "shared"
WEIGHTS, IMAGES = SHARED / "teachers/resnet20-cifar10.safetensors", SHARED / "data/cifar10-test-5k.npz"

pytestmark = [
    pytest.mark.accuracy,
    pytest.mark.skipif(not (WEIGHTS.is_file() and IMAGES.is_file()), reason="needs the teacher and the test images of ../shared"),
]


def made(bits: int, folder: Path, *more: str) -> Path:
    words = ["run", "py:zsq_zoo.resnet:resnet20", "--weights", str(WEIGHTS), "--synth", "none", "--quant", f"squant{bits}"]
    assert main([*words, "--set", "quant.scheme=deploy", *more, "--out", str(folder)]) == 0
    assert main(["export", str(folder), "--to", "onnx"]) == 0
    return folder


def test_four_bits_are_exact(tmp_path: Path) -> None:
    folder = made(4, tmp_path / "run")
    result = SavedRun(folder).verify(npz=IMAGES)
    assert result["argmax_agreement"] == 100 and result["first"] is None and not result["floating"] and result["verified"]


def test_eight_bits_verify_and_the_file_is_small(tmp_path: Path) -> None:
    folder = made(8, tmp_path / "run")
    synthetic, real = SavedRun(folder).verify(), SavedRun(folder).verify(npz=IMAGES)
    for result in (synthetic, real):  # what may be left is the rounding of the input to its codes
        assert result["verified"] and result["argmax_agreement"] == 100 and not result["floating"]
        assert result["first"] is None or result["first"]["share"] < 1e-5
    assert (folder / "model.onnx").stat().st_size <= 0.27 * WEIGHTS.stat().st_size
