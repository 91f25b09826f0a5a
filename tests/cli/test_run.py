"""``zsq run`` and ``zsq eval`` on a tiny teacher: the folder, the closing table, the JSON, the progress."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from zsq import events
from zsq._api.progress import Bars, Lines

TINY = (
    "py:zsq.testing.teachers:tiny", "--set", "teacher.shape=3,8,8", "--set", "teacher.mean=0,0,0", "--set", "teacher.std=1,1,1",
    "--set", "teacher.classes=4", "--calib", "minmax", "--set", "calib.batches=2", "--set", "tune.steps=2", "--set", "run.batch_size=4",
)  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Callable[[str, int], Path]:
    def write(name: str, count: int) -> Path:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        np.savez(tmp_path / name, images=pixels, labels=rng.integers(0, 4, count))
        return tmp_path / name

    return write


def test_a_run_ends_with_a_table_and_a_folder(zsq: Any, tmp_path: Path, images: Any) -> None:
    file = images("real.npz", 12)
    done = zsq("run", *TINY, "--quant", "uniform4", "--eval", f"npz:{file}")
    assert done.code == 0, done.err
    for word in ("teacher top1", "student top1", "drop", "weights 4, activations 4", "paper", "real images", "12", "runs/noise-uniform4-0"):
        assert word in done.out
    lines = done.err.splitlines()
    assert any(line.startswith("calibrate:minmax  2/2") for line in lines)
    assert any(line.startswith("tune:finetune  2/2") and "images/s" in line and "kd" in line for line in lines)
    folder = tmp_path / "runs" / "noise-uniform4-0"
    assert {"report.json", "recipe.yaml", "config.json", "model.safetensors", "README.md"} <= {path.name for path in folder.iterdir()}

    again = json.loads(zsq("eval", folder, "--json").out)
    report = json.loads((folder / "report.json").read_text())
    assert again["student"]["metrics"]["top1"] == pytest.approx(report["student"]["metrics"]["top1"])
    assert again["teacher"]["metrics"] == report["teacher"]["metrics"] and again["images_evaluated"] == 12
    table = zsq("eval", folder).out
    assert "top1" in table and "teacher" in table


def test_eval_never_sets_figures_of_different_images_side_by_side(zsq: Any, images: Any) -> None:
    assert zsq("run", *TINY, "--eval", f"npz:{images('a.npz', 12)}", "--out", "r").code == 0
    other = json.loads(zsq("eval", "r", "--eval", f"npz:{images('b.npz', 8)}", "--json").out)
    assert other["images_evaluated"] == 8 and "top1" in other["student"]["metrics"] and other["teacher"]["metrics"] == {}


def test_eval_refuses_what_needs_the_teacher(zsq: Any) -> None:
    assert zsq("run", *TINY, "--out", "r").code == 0
    done = zsq("eval", "r", "--eval", "agreement")
    assert done.code == 2 and "compares with the teacher" in done.err
    assert "names no real images" in zsq("eval", "r").err


def test_json_is_the_report_and_nothing_else(zsq: Any, tmp_path: Path) -> None:
    done = zsq("run", *TINY, "--seed", 4, "--out", "r", "--json")
    report = json.loads(done.out)
    assert report == json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["schema"] == 1 and report["seed"] == 4 and report["steps"] == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_either_precision_runs_and_is_reported(precision: str, zsq: Any) -> None:
    done = zsq("run", *TINY, "--precision", precision, "--out", "r", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["precision"] == precision and report["steps"] == 2


def test_a_recipe_of_a_run_repeats_it(zsq: Any, tmp_path: Path) -> None:
    assert zsq("run", *TINY, "--out", "first").code == 0
    done = zsq("run", "--recipe", "first/recipe.yaml", "--out", "second")
    assert done.code == 0, done.err
    assert (tmp_path / "first" / "model.safetensors").read_bytes() == (tmp_path / "second" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "words", [("--weights", "none.safetensors"), ("--weights", "broken.safetensors"), ("--eval", "npz:none.npz"), ("--eval", "npz:bad.npz")]
)
def test_bad_files_leave_nothing_behind(words: tuple[str, ...], zsq: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not json")
    np.savez(tmp_path / "bad.npz", images=np.zeros((3, 5, 5, 3), np.uint8), labels=np.array([0, 1, 99]))
    before = sorted(tmp_path.rglob("*"))
    done = zsq("run", *TINY, *words, "--out", "out/r")
    message = [line for line in done.err.splitlines() if not line.startswith("teacher  ")]
    assert done.code == 2 and 1 <= len(message) <= 3 and message[0].startswith("zsq: "), done.err
    assert "Traceback" not in done.err and not done.out
    assert sorted(tmp_path.rglob("*")) == before


def test_lines_tell_of_early_stops_and_messages(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines(events.PhaseStarted(1.0, "tune:x"))
    lines(events.Stepped(3.0, "tune:x", 4, 9, {"loss": 0.5}, 16))
    lines(events.Message(3.0, "a word"))
    lines(events.PhaseEnded(3.0, "tune:x", stopped=True))
    assert capsys.readouterr().err.splitlines() == ["a word", "tune:x  4/9  2.0 s  32 images/s  loss 0.5  (stopped early)"]


def test_bars_show_steps_rate_and_the_metrics_that_fit() -> None:
    progress = Progress("{task.fields[metrics]}", console=Console(file=StringIO(), width=85, force_terminal=True))
    with progress:
        bars = Bars(progress)
        bars(events.PhaseStarted(0.0, "quantize"))
        bars(events.PhaseEnded(1.0, "quantize"))
        bars(events.PhaseStarted(1.0, "tune:x"))
        bars(events.Stepped(3.0, "tune:x", 4, 4, {"loss": 0.5, "a_long_name_of_a_loss": 0.25}, 16))
        bars(events.PhaseEnded(3.0, "tune:x"))
    quantize, tune = progress.tasks
    assert quantize.finished and (tune.completed, tune.total) == (4, 4)
    assert tune.fields == {"steps": "4/4", "rate": "32 images/s", "metrics": "loss 0.5"}
