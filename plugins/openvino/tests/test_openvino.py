"""The same student in OpenVINO: what its files compute, and that they compute in integers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openvino", reason="openvino is not installed")

from zsq_onnx.runtime import instruction_set

from zsq.testing import conformance
from zsq_cli.app import main

test_openvino = conformance("openvino")


@pytest.fixture(scope="session")
def runs(exported_run: Callable[[str, str, int], Path]) -> Callable[[str, int], Path]:
    """``runs(scheme, bits)``: the folder of a tiny run with its OpenVINO files."""
    return partial(exported_run, "openvino")


@pytest.mark.parametrize("bits", [8, 4])
def test_a_tiny_run_verifies_and_is_integer(runs: Any, bits: int, capsys: pytest.CaptureFixture[str]) -> None:
    if bits == 8 and "without" in instruction_set():
        pytest.skip(f"{instruction_set()}: OpenVINO adds products of 8 bits in 16 bits here, and has no exact mode")
    folder = runs("deploy", bits)
    capsys.readouterr()
    assert main(["verify", str(folder), "--to", "openvino", "--images", "64", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["argmax_agreement"] == 100 and told["verified"] and told["exported"] == "openvino"
    assert not told["floating"] and len(told["integer"]) >= 3
    assert told["first"] is None or told["first"]["share"] < 1
    assert json.loads((folder / "verify.json").read_text())["runtime"].startswith("openvino 20")


def test_bench_gives_a_speed_up_only_for_integer_graphs(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    deploy, paper = runs("deploy", 4), runs("paper", 8)
    capsys.readouterr()
    assert main(["bench", str(deploy), "--to", "openvino", "--batch", "4"]) == 0
    said = capsys.readouterr().out
    assert "speed-up" in said and "threads 1" in said and "openvino" in said and "int8 speed" in said
    assert main(["bench", str(paper), "--to", "openvino", "--batch", "4"]) == 0
    assert "no speed-up: " in capsys.readouterr().out


def test_a_file_that_is_missing_or_damaged(runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(runs("deploy", 8), tmp_path / "copy"))
    (folder / "model.xml").write_bytes((folder / "model.xml").read_bytes()[:300])
    assert main(["verify", str(folder), "--to", "openvino"]) == 2
    assert "cannot run model.xml" in capsys.readouterr().err
    (folder / "model.bin").unlink()
    assert main(["verify", str(folder), "--to", "openvino"]) == 2
    assert "zsq export" in capsys.readouterr().err
