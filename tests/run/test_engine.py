"""The engine: same bits for the same recipe, clean stops, nothing half-written, one component's noise apart from another's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import zsq
from zsq import events
from zsq._recipe import read_recipe
from zsq._run.engine import run
from zsq.errors import FileError, PlanError
from zsq.testing._chains import tiny_run

ALTERNATING = {"synth": {"name": "qimera"}, "calib": ["aac", "abn"], "tune": {"name": "finetune", "steps": 3, "lr": 0.01}}


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tiny_run(ALTERNATING, folder=tmp_path / name)
    for file in ("model.safetensors", "config.json", "recipe.yaml", "images.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    tiny_run({**ALTERNATING, "run": {"seed": 1}}, folder=tmp_path / "c")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() != (tmp_path / "c" / "model.safetensors").read_bytes()


def test_the_recipe_that_a_run_leaves_gives_the_same_student(tmp_path: Path) -> None:
    tiny_run(ALTERNATING, folder=tmp_path / "a")
    run(read_recipe(tmp_path / "a" / "recipe.yaml"), tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_the_saved_student_is_the_evaluated_student(tmp_path: Path) -> None:
    result = tiny_run(ALTERNATING, folder=tmp_path / "run")
    inputs = torch.randn((5, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(zsq.load(tmp_path / "run")(inputs), result.student.module(inputs))


def test_looking_at_the_calibrated_student_changes_nothing(tmp_path: Path) -> None:
    """Its figures are those of the same run without tuning, and the tuned student is the same with and without the look."""
    npz = tmp_path / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(npz, images=rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), labels=rng.integers(0, 4, 40))
    shared = {**ALTERNATING, "eval": [{"name": "npz", "ref": str(npz)}, {"name": "agreement", "images": 8}]}
    plain = tiny_run(shared, folder=tmp_path / "plain")
    looked = tiny_run({**shared, "run": {"calibrated": True}}, folder=tmp_path / "looked")
    untuned = tiny_run({**shared, "tune": "none"})
    assert plain.report["student"]["calibrated"] is None
    assert looked.report["student"]["calibrated"] == {"top1": untuned.report["student"]["metrics"]["top1"]}
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() == (tmp_path / "looked" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("rates", "moves", "stays"), [({"lr": 1e-30, "norm_lr": 0.01}, "bn1", "conv1"), ({"norm_lr": 0}, "conv1", "bn1")])
def test_batch_norm_has_a_rate_of_its_own(rates: dict[str, float], moves: str, stays: str) -> None:
    tuned, left = (tiny_run({"tune": tune}).student.module for tune in ({"name": "finetune", "steps": 3, "lr": 0.05, **rates}, "none"))
    for name, same in ((moves, False), (stays, True)):
        assert torch.equal(tuned.get_submodule(name).weight, left.get_submodule(name).weight) is same, name


def test_a_run_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    tiny_run(ALTERNATING)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_another_loss_leaves_the_generators_noise_alone() -> None:
    seen: dict[str, list[float]] = {}
    for loss in ("kd", "soft-ce"):

        def watch(event: events.Event, values: list[float] = seen.setdefault(loss, [])) -> None:
            if isinstance(event, events.Stepped) and event.phase.startswith("tune"):
                values.append(float(event.metrics["g_ce"]))

        tiny_run({"synth": "qimera", "loss": [loss]}, steps=3, listeners=[watch])
    assert seen["kd"] == seen["soft-ce"] and len(seen["kd"]) == 3


def test_a_budget_ends_phases_early_and_still_reports(tmp_path: Path) -> None:
    report = tiny_run({"tune": {"name": "finetune", "steps": 100_000}, "run": {"budget": "2"}}, folder=tmp_path / "run").report
    assert report["stopped"] is True and 0 < report["steps"] < 100_000
    assert "agreement" in report["student"]["metrics"] and (tmp_path / "run" / "model.safetensors").exists()


def test_a_full_disk_while_saving_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_run(folder=tmp_path / "run")
    good = (tmp_path / "run" / "report.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for target in (tmp_path / "run", tmp_path / "new"):
        with pytest.raises(FileError, match="No space left") as caught:
            tiny_run(folder=target)
        assert len(str(caught.value).splitlines()) <= 3
    assert [p.name for p in tmp_path.iterdir()] == ["run"] and (tmp_path / "run" / "report.json").read_bytes() == good


def test_a_teacher_without_batch_norm_is_refused_where_it_is_needed(tmp_path: Path) -> None:
    plain = {"ref": "py:zsq.testing.teachers:Plain", "shape": [3, 8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}
    with pytest.raises(PlanError, match=r"needs teacher\.bn") as caught:
        tiny_run({"teacher": plain, "synth": "qimera"}, folder=tmp_path / "run")
    assert len(str(caught.value).splitlines()) <= 3 and not list(tmp_path.iterdir())
    assert tiny_run({"teacher": plain}).report["steps"] == 2


def test_an_unusable_evaluation_file_is_refused_before_any_work(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", images=np.zeros((2, 9, 9, 3), np.uint8), labels=np.zeros(2, np.int64))
    phases: list[str] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.PhaseStarted):
            phases.append(event.phase)

    with pytest.raises(FileError, match=r"9, 9, 3"):
        tiny_run({"eval": [{"name": "npz", "ref": str(tmp_path / "bad.npz")}]}, folder=tmp_path / "run", listeners=[watch])
    assert phases == ["teacher"] and not (tmp_path / "run").exists()


def test_interrupting_a_run_that_has_hardly_begun_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.phase == "prepare":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_run(ALTERNATING, folder=tmp_path / "run", listeners=[interrupt])
    assert not list(tmp_path.iterdir())


def test_phases_stand_in_the_report_in_their_order() -> None:
    report = tiny_run(ALTERNATING).report
    assert [p["name"] for p in report["phases"]] == [
        "teacher",
        "quantize",
        "prepare",
        "calibrate:aac",
        "calibrate:abn",
        "tune:finetune",
        "evaluate",
    ]
    assert report["wall_s"] >= sum(p["seconds"] for p in report["phases"]) * 0.99
