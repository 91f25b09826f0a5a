"""``zsq export``, ``verify`` and ``bench`` on a saved run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zsq import SavedRun
from zsq.images import read_npz
from zsq.types import InputSpec
from zsq_cli.app import main


@pytest.fixture(scope="session")
def runs(exported_run: Callable[[str, str, int], Path]) -> Callable[[str, int], Path]:
    """``runs(scheme, bits)``: the folder of a tiny run with its ``model.onnx``."""
    return partial(exported_run, "onnx")


def test_a_tiny_run_verifies(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs("deploy", 8)
    capsys.readouterr()
    assert main(["verify", str(folder), "--images", "64"]) == 0
    said = capsys.readouterr().out
    assert "100.00 % of 64 images" in said and "float layers: 0" in said and said.rstrip().endswith("verified")
    kept = json.loads((folder / "verify.json").read_text())
    assert kept["exported"] == "onnx" and kept["images"] == 64 and kept["argmax_agreement"] == 100 and kept["verified"]
    assert kept["files"] == {"model.onnx": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()}
    assert kept["runtime"].startswith("onnxruntime ") and kept["max_abs_diff"] >= 0


def test_verify_uses_the_images_of_the_run(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs("deploy", 8)
    spec = InputSpec((3, 8, 8), (0.0,) * 3, (1.0,) * 3)
    own = read_npz(folder / "images.npz", spec, 100)
    assert own.shape == (64, 3, 8, 8) and own.min() >= 0 and own.max() <= 1
    assert torch.equal(SavedRun(folder).images(100)[0][:64], own)
    assert main(["verify", str(folder), "--images", "100"]) == 0
    assert "64 of the run's own, 36 synthetic patterns" in " ".join(capsys.readouterr().out.split())


def test_verify_reads_real_images(runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = runs("deploy", 4), tmp_path / "images.npz"
    np.savez(file, images=np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    capsys.readouterr()
    assert main(["verify", str(folder), "--npz", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 20 and told["argmax_agreement"] == 100 and told["verified"] and told["below_8_bits"]
    np.savez(file, images=np.zeros((2, 9, 9, 3), np.uint8))
    assert main(["verify", str(folder), "--npz", str(file)]) == 2
    assert "not uint8 (N, 8, 8, 3)" in capsys.readouterr().err


def test_a_file_of_another_run_fails(runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    mixed = Path(shutil.copytree(runs("deploy", 2), tmp_path / "mixed"))
    shutil.copy(runs("deploy", 8) / "model.onnx", mixed)
    assert main(["verify", str(mixed), "--images", "256"]) == 1
    assert "NOT VERIFIED" in capsys.readouterr().out


def test_bench_gives_a_speed_up_only_for_integer_graphs(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    deploy, paper = runs("deploy", 4), runs("paper", 8)
    capsys.readouterr()
    assert main(["bench", str(deploy), "--batch", "4"]) == 0
    said = capsys.readouterr().out
    assert "speed-up" in said and "threads 1" in said and "onnxruntime" in said and "int8 speed" in said
    assert main(["bench", str(paper), "--batch", "4"]) == 0
    said = capsys.readouterr().out
    assert "no speed-up: " in said and "scheme 'paper'" in said and "x\n" not in said.split("no speed-up")[0].splitlines()[-1]


def test_messages(tmp_path: Path, runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs("deploy", 8)
    assert main(["export", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert main(["verify", str(folder), "--to", "safetensors"]) == 2
    assert "cannot verify its files" in capsys.readouterr().err
    assert main(["export", str(folder), "--to", "onxx"]) == 2
    assert "onxx" in capsys.readouterr().err
