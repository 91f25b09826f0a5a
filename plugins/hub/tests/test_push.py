"""What `zsq push` publishes, refuses, and writes without a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hubtest import answers, content, files, refused, report_of
from huggingface_hub import ModelCard
from loopback import Loopback, Repo
from zsq_hub.push import cut as cut_folders
from zsq_hub.push import finished, push

import zsq
from zsq.errors import FileError
from zsq_cli.app import main

RUN = ["run", "py:zsq.testing.teachers:tiny", "--synth", "noise", "--quant", "uniform8", "--calib", "minmax", "--tune", "none"]
SPEC = ["teacher.shape=3,8,8", "teacher.mean=0.5,0.5,0.5", "teacher.std=0.2,0.2,0.2", "calib.batches=1", "run.batch_size=8"]
SETS = [word for value in SPEC for word in ("--set", value)]


def test_dry_run_writes_the_folder_and_asks_nobody(hub: Loopback, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "org/tiny", "--dry-run", str(tmp_path / "out")]) == 0
    assert hub.requests == [] and "nothing was published" in capsys.readouterr().out
    assert torch.equal(answers(zsq.load(tmp_path / "out")), answers(zsq.load(run)))
    assert ModelCard.load(tmp_path / "out/README.md").data.eval_results[0].dataset_name == "tiny-val"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert "not empty" in refused(capsys, "push", run, "org/tiny", "--dry-run", tmp_path / "out")
    assert "not empty" in refused(capsys, "push", run, "org/tiny", "--dry-run", tmp_path / "out/README.md")


def test_no_folder_of_this_machine_is_published(hub: Loopback, run: Path, images: Path) -> None:
    push(run, "org/tiny")
    assert str(images.parent) in (run / "recipe.yaml").read_text()
    assert not [name for name in files(hub) if str(images.parent).encode() in content(hub, name)]
    assert cut_folders({"a": ["npz:/home/me/v.npz", "https://x.y/a/b", "hub:o/n@c", 3]}) == {
        "a": ["npz:v.npz", "https://x.y/a/b", "hub:o/n@c", 3]
    }


@pytest.mark.parametrize(("flag", "private"), [("--private", True), ("--public", False)])
def test_private_or_public(hub: Loopback, run: Path, capsys: pytest.CaptureFixture[str], flag: str, private: bool) -> None:
    assert main(["push", str(run), "org/tiny", flag, "--json"]) == 0
    assert hub.repos["org/tiny"].private is private
    done = json.loads(capsys.readouterr().out)
    assert done["commit"] == hub.repos["org/tiny"].refs["main"]
    if not private:
        assert "public already" in refused(capsys, "push", run, "org/tiny", "--private")


def test_files_of_the_former_student_do_not_stay(hub: Loopback, run: Path, tmp_path: Path) -> None:
    with_onnx = Path(shutil.copytree(run, tmp_path / "with"))
    (with_onnx / "model.onnx").write_bytes(b"former")
    push(with_onnx, "org/tiny")
    assert "model.onnx" in files(hub)
    push(run, "org/tiny")
    assert "model.onnx" not in files(hub)


def test_files_of_others_are_not_overwritten(hub: Loopback, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.repos["org/bert"] = Repo()
    before = hub.repos["org/bert"].commit({"config.json": b"{}", "pytorch_model.bin": b"x"})
    assert "something else" in refused(capsys, "push", run, "org/bert")
    assert hub.repos["org/bert"].refs["main"] == before


@pytest.mark.parametrize("lacking", ["report.json", "model.safetensors", "recipe.yaml", "config.json"])
def test_an_unfinished_run_is_not_pushed(
    hub: Loopback, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lacking: str
) -> None:
    broken = Path(shutil.copytree(run, tmp_path / "broken"))
    (broken / lacking).unlink()
    refused(capsys, "push", broken, "org/tiny")
    assert hub.repos == {} and hub.requests == []


def test_a_report_of_another_student_is_not_pushed(run: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(run, tmp_path / "broken"))
    report = report_of(broken)
    report["student"]["size_bytes"] += 1
    (broken / "report.json").write_text(json.dumps(report))
    with pytest.raises(FileError, match="not about this student"):
        finished(broken)


def test_an_exported_file_that_does_not_verify_is_refused_unless_told_otherwise(
    hub: Loopback, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = Path(shutil.copytree(run, tmp_path / "exported"))
    (exported / "model.onnx").write_bytes(b"a graph")
    monkeypatch.setattr("zsq._api.saved.SavedRun.verify", lambda run, *_: {"verified": run.folder != exported})
    assert "does not verify" in refused(capsys, "push", exported, "org/tiny")
    assert hub.requests == []
    assert main(["push", str(exported), "org/tiny", "--no-verify"]) == 0
    assert "model.onnx" in files(hub)


def test_run_and_push(hub: Loopback, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RUN, *SETS, "--eval", "agreement", "--out", str(tmp_path / "r"), "--json", "--private"]
    capsys.readouterr()
    assert main([*words, "--push", "org/tiny"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["student"]["weight_bits"] == 8
    assert hub.repos["org/tiny"].refs["main"] in captured.err and hub.repos["org/tiny"].private
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(tmp_path / "r")))


def test_a_run_that_could_not_be_pushed_does_not_begin(
    hub: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*RUN, "--out", tmp_path / "r"]
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    assert "does not accept your token" in refused(capsys, *words, "--push", "org/tiny")
    assert "names no repository" in refused(capsys, *words, "--push", "tiny")
    assert not (tmp_path / "r").exists()


def test_a_run_whose_push_fails_stays_and_says_how_to_go_on(hub: Loopback, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.fault("POST", "/commit/", 503)
    capsys.readouterr()
    assert main([*RUN, *SETS, "--eval", "agreement", "--out", str(tmp_path / "r"), "--push", "org/tiny"]) == 2
    said = capsys.readouterr().err
    assert "503" in said and "the run is finished, but not published" in said and f"zsq push {tmp_path / 'r'} org/tiny" in said
    hub.heal()
    assert main(["push", str(tmp_path / "r"), "org/tiny"]) == 0


def test_a_run_without_safetensors_is_refused_with_the_way_on(
    hub: Loopback, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("zsq_onnx", reason="needs the plugin onnx")
    assert "add --export safetensors" in refused(capsys, *RUN, "--export", "onnx", "--out", tmp_path / "r", "--push", "org/tiny")
    assert not (tmp_path / "r").exists()
    only: Any = Path(shutil.copytree(run, tmp_path / "only"))
    (only / "model.safetensors").unlink()
    (only / "config.json").unlink()
    (only / "model.onnx").write_bytes(b"a graph")
    said = refused(capsys, "push", only, "org/tiny")
    assert "no model.safetensors" in said and "--export safetensors" in said
    assert hub.requests == []
