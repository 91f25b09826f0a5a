"""Push, load by id and revision, evaluate: the same bits, the same figures, whatever way large files take."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hubtest import answers, content, files, report_of
from huggingface_hub import constants
from loopback import TOKEN, Loopback, Pointer, Repo
from zsq_hub.push import hub_name, push

import zsq
from zsq.errors import FileError
from zsq_cli.app import main

UNIFORM = ["--synth", "noise", "--quant", "uniform8", "--calib", "minmax", "--tune", "none", "--set", "calib.batches=1"]


def test_by_id_and_revision_it_is_bit_identical(store: Loopback, run: Path, other: Path) -> None:
    first = push(run, "org/tiny")
    second = push(other, "org/tiny")
    assert first.commit and second.commit and first.commit != second.commit
    assert files(store) == {"README.md", "config.json", "images.npz", "images.png", "model.safetensors", "recipe.yaml", "report.json"}
    assert not torch.equal(answers(zsq.load(run)), answers(zsq.load(other)))
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(other)))
    assert torch.equal(answers(zsq.load("hub:org/tiny")), answers(zsq.load(other)))
    for place, revision in (("org/tiny", first.commit), (f"org/tiny@{first.commit}", None)):
        assert torch.equal(answers(zsq.load(place, revision=revision)), answers(zsq.load(run)))


def test_where_hf_xet_is_installed_it_carries_the_weights(xet: Loopback, run: Path) -> None:
    push(run, "org/tiny")
    weights = content(xet, "model.safetensors")
    assert isinstance(weights, Pointer) and weights.size == (run / "model.safetensors").stat().st_size
    zsq.load("org/tiny")
    assert not xet.objects and not [path for _, path in xet.requests if path.startswith("/lfs/")]


def test_large_files_arrive_in_parts(hub: Loopback, run: Path) -> None:
    hub.part = 500
    push(run, "org/tiny")
    weights = (run / "model.safetensors").read_bytes()
    assert content(hub, "model.safetensors") == weights
    assert len([1 for method, path in hub.requests if method == "PUT"]) > len(weights) // 500
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(run)))


def test_a_tag_stays_where_it_is(hub: Loopback, run: Path, other: Path) -> None:
    repo = hub.repos["org/tiny"] = Repo()
    repo.commit({".gitattributes": b""})
    repo.refs["v1"] = str(push(run, "org/tiny").commit)
    push(other, "org/tiny")
    assert torch.equal(answers(zsq.load("org/tiny", revision="v1")), answers(zsq.load(run)))


def test_evaluation_of_a_pulled_student_gives_the_figure_that_was_measured(
    store: Loopback, run: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(run, "org/tiny")
    capsys.readouterr()
    assert main(["eval", "hub:org/tiny", "--eval", f"npz:{images}", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["images_evaluated"] == 20
    assert measured["student"]["metrics"]["top1"] == report_of(run)["student"]["metrics"]["top1"]


def test_a_student_as_teacher_names_its_commit_in_report_and_recipe(hub: Loopback, run: Path, tmp_path: Path) -> None:
    commit = push(run, "org/tiny").commit
    assert main(["run", "hub:org/tiny", *UNIFORM, "--eval", "agreement", "--out", str(tmp_path / "again")]) == 0
    ref = f"hub:org/tiny@{commit}"
    assert report_of(tmp_path / "again")["teacher"]["ref"] == ref
    assert yaml.safe_load((tmp_path / "again/recipe.yaml").read_text())["teacher"]["ref"] == ref
    assert hub_name(ref) == "org/tiny"


def test_only_files_without_code_are_downloaded(hub: Loopback, run: Path) -> None:
    commit = push(run, "org/tiny").commit
    repo = hub.repos["org/tiny"]
    repo.commits[str(commit)]["pytorch_model.bin"] = repo.commits[str(commit)]["modeling.py"] = b"evil"
    zsq.load("org/tiny")
    assert not [path for _, path in hub.requests if path.endswith((".bin", ".py"))]


def test_a_student_that_was_loaded_loads_offline(store: Loopback, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = push(run, "org/tiny").commit
    zsq.load("org/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    seen = len(store.requests)
    for place in ("org/tiny", f"hub:org/tiny@{commit}"):
        assert torch.equal(answers(zsq.load(place)), answers(zsq.load(run)))
    assert len(store.requests) == seen


def test_the_store_can_be_named_in_a_push(hub: Loopback, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "hub:org/tiny"]) == 0
    assert torch.equal(answers(zsq.load("zsq-hub/hub:org/tiny")), answers(zsq.load(run)))
    capsys.readouterr()
    assert main(["push", str(run), "hup:org/tiny"]) == 2
    assert "store 'hup' not found\ndid you mean 'hub'?" in capsys.readouterr().err


def test_exported_files_are_fetched_where_they_are_asked_for(hub: Loopback, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "model.onnx").write_bytes(b"a graph")
    push(copy, "org/tiny")
    zsq.load("org/tiny")
    assert not (zsq.SavedRun.open("hub:org/tiny").folder / "model.onnx").exists()
    assert (zsq.SavedRun.open("hub:org/tiny", exported=True).folder / "model.onnx").read_bytes() == b"a graph"
    assert zsq.SavedRun.open(copy, exported=True).folder == copy


def test_a_damaged_download_is_refused(hub: Loopback, run: Path) -> None:
    commit = push(run, "org/tiny").commit
    config = json.loads((run / "config.json").read_text()) | {"sha256": "0" * 64}
    hub.repos["org/tiny"].commits[str(commit)]["config.json"] = json.dumps(config).encode()
    with pytest.raises(FileError):
        zsq.load("org/tiny")


def test_no_student(hub: Loopback) -> None:
    hub.repos["org/bert"] = Repo()
    hub.repos["org/bert"].commit({"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(FileError, match=r"no zsq student: it has no model\.safetensors"):
        zsq.load("hub:org/bert")


def test_revision_of_a_folder(run: Path) -> None:
    with pytest.raises(FileError, match="is a folder"):
        zsq.load(run, revision="main")


def test_from_a_process_of_its_own_with_the_clients_variables(hub: Loopback, run: Path, images: Path, tmp_path: Path) -> None:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    words = [["push", str(run), "org/tiny"], ["eval", "hub:org/tiny", "--eval", f"npz:{images}"]]
    code = f"import sys; from zsq_cli.app import main; sys.exit(any([main(words) for words in {words}]))"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home/hub/models--org--tiny").is_dir()


def test_the_plugin_loads_nothing_heavy_by_itself() -> None:
    code = "import sys, zsq_hub; assert not {'torch', 'huggingface_hub'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
