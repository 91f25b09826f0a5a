"""Push, load by id and revision, evaluate: the same bits, the same figures; every fault one message, nothing half-published."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from loopback import TOKEN, Loopback, Repo, cut
from zsq_hub.push import cut as cut_folders
from zsq_hub.push import finished, hub_name, push

import zsq
from zsq.errors import FileError, ZsqError
from zsq_cli.app import main

INPUTS = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(7))


def answers(student: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return student(INPUTS)


def files(hub: Loopback, name: str = "org/tiny") -> set[str]:
    repo = hub.repos[name]
    return set(repo.commits[repo.refs["main"]]) - {".gitattributes"}


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command says that ends with code 2: three lines at most, and no token."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("zsq: ") and 1 <= len(said.splitlines()) <= 3 and "Traceback" not in said
    assert TOKEN not in said and not re.search(r"hf_\w{8}", said)
    return said


def test_round_trip_by_id_and_revision_is_bit_identical(hub: Loopback, run: Path, other: Path) -> None:
    first = push(run, "org/tiny")
    second = push(other, "org/tiny")
    assert first.commit and second.commit and first.commit != second.commit
    assert files(hub) == {"README.md", "config.json", "images.png", "model.safetensors", "recipe.yaml", "report.json"}
    assert not torch.equal(answers(zsq.load(run)), answers(zsq.load(other)))
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(other)))
    assert torch.equal(answers(zsq.load("hub:org/tiny")), answers(zsq.load(other)))
    for place, revision in (("org/tiny", first.commit), (f"org/tiny@{first.commit}", None)):
        assert torch.equal(answers(zsq.load(place, revision=revision)), answers(zsq.load(run)))


def test_evaluation_of_a_pulled_student_gives_the_figure_that_was_measured(
    hub: Loopback, run: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(run, "org/tiny")
    capsys.readouterr()
    assert main(["eval", "hub:org/tiny", "--eval", f"npz:{images}", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["images_evaluated"] == 20
    assert measured["student"]["metrics"]["top1"] == json.loads((run / "report.json").read_text())["student"]["metrics"]["top1"]


def test_a_student_as_teacher_names_its_commit_in_report_and_recipe(hub: Loopback, run: Path, tmp_path: Path) -> None:
    commit = push(run, "org/tiny").commit
    words = ["hub:org/tiny", "--synth", "noise", "--quant", "uniform8", "--calib", "minmax", "--tune", "none", "--set", "calib.batches=1"]
    assert main(["run", *words, "--eval", "agreement", "--out", str(tmp_path / "again")]) == 0
    ref = f"hub:org/tiny@{commit}"
    assert json.loads((tmp_path / "again/report.json").read_text())["teacher"]["ref"] == ref
    assert yaml.safe_load((tmp_path / "again/recipe.yaml").read_text())["teacher"]["ref"] == ref
    assert hub_name(ref) == "org/tiny"


def test_only_files_without_code_are_downloaded_and_the_cache_is_used(hub: Loopback, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = push(run, "org/tiny").commit
    repo = hub.repos["org/tiny"]
    repo.commits[commit]["pytorch_model.bin"] = repo.commits[commit]["modeling.py"] = b"evil"
    zsq.load("org/tiny")
    assert not [path for _, path in hub.requests if path.endswith((".bin", ".py"))]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    seen = len(hub.requests)
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(run)))
    assert len(hub.requests) == seen


def test_a_damaged_download_is_refused(hub: Loopback, run: Path) -> None:
    commit = push(run, "org/tiny").commit
    config = json.loads((run / "config.json").read_text()) | {"sha256": "0" * 64}
    hub.repos["org/tiny"].commits[commit]["config.json"] = json.dumps(config).encode()
    with pytest.raises(FileError, match="not the file that"):
        zsq.load("org/tiny")


def test_no_student(hub: Loopback) -> None:
    hub.repos["org/bert"] = Repo()
    hub.repos["org/bert"].commit({"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(FileError, match=r"no zsq student: it has no model\.safetensors"):
        zsq.load("hub:org/bert")


def test_card(hub: Loopback, run: Path) -> None:
    hub.repos["timm/tiny"] = Repo()
    hub.repos["timm/tiny"].commit({"README.md": b"---\nlicense: bsd-3-clause\n---\n"})
    push(run, "org/tiny", base_model="timm/tiny", dataset="tiny-val")
    repo = hub.repos["org/tiny"]
    card = ModelCard(repo.commits[repo.refs["main"]]["README.md"].decode(), ignore_metadata_errors=False)
    meta, report = card.data.to_dict(), json.loads((run / "report.json").read_text())
    assert meta["license"] == "bsd-3-clause", "inherited, not guessed"
    assert (meta["base_model"], meta["base_model_relation"], meta["library_name"]) == ("timm/tiny", "quantized", "zsq")
    assert meta["pipeline_tag"] == "image-classification" and meta["quantized_by"] == "ann" and "datasets" not in meta
    assert {"w4a4", "synth:noise", "zero-shot-quantization", f"protocol:{report['student']['protocol']}"} <= set(meta["tags"])
    (result,) = card.data.eval_results
    assert (result.metric_type, result.dataset_name) == ("accuracy", "tiny-val")
    assert result.metric_value == report["student"]["metrics"]["top1"]
    for part in ('zsq.load("org/tiny")', "images.png", "20 real images", "## Limits", "## Recipe"):
        assert part in card.text


def test_without_base_model_nothing_is_claimed_of_one(run: Path, tmp_path: Path) -> None:
    push(run, "org/tiny", dry_run=tmp_path / "out")
    meta = ModelCard.load(tmp_path / "out/README.md").data.to_dict()
    assert not {"license", "base_model", "base_model_relation", "model-index"} & meta.keys()


def test_dry_run_writes_the_folder_and_asks_nobody(hub: Loopback, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "org/tiny", "--dry-run", str(tmp_path / "out")]) == 0
    assert hub.requests == [] and "nothing was published" in capsys.readouterr().out
    assert torch.equal(answers(zsq.load(tmp_path / "out")), answers(zsq.load(run)))
    assert ModelCard.load(tmp_path / "out/README.md").data.eval_results[0].dataset_name == "tiny-val"
    assert "not empty" in refused(capsys, "push", run, "org/tiny", "--dry-run", tmp_path / "out")


def test_no_folder_of_this_machine_is_published(hub: Loopback, run: Path, images: Path) -> None:
    push(run, "org/tiny")
    repo = hub.repos["org/tiny"]
    assert str(images.parent) in (run / "recipe.yaml").read_text()
    assert not [name for name, content in repo.commits[repo.refs["main"]].items() if str(images.parent).encode() in content]
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
    report = json.loads((broken / "report.json").read_text())
    report["student"]["size_bytes"] += 1
    (broken / "report.json").write_text(json.dumps(report))
    with pytest.raises(FileError, match="not about this student"):
        finished(broken)


def test_wrong_token(hub: Loopback, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    assert "does not accept your token" in refused(capsys, "push", run, "org/tiny")
    assert "does not accept your token" in refused(capsys, "eval", "hub:org/tiny")
    assert hub.repos == {}


def test_no_token(hub: Loopback, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "not logged in" in refused(capsys, "push", run, "org/tiny")


@pytest.mark.parametrize(
    ("method", "path", "code", "says"),
    [
        ("POST", "/commit/", 403, "may not write to 'org/tiny'"),
        ("POST", "/repos/create", 403, "may not write to 'org/tiny'"),
        ("POST", "/commit/", 412, "changed by somebody else"),
        ("POST", "/commit/", 503, "the Hub fails with 503"),
        ("PUT", "/lfs/", 503, "the Hub fails with 503"),
        ("POST", "/preupload/", 429, "fewer requests"),
    ],
)
def test_refused_push(hub: Loopback, run: Path, capsys: pytest.CaptureFixture[str], method: str, path: str, code: int, says: str) -> None:
    hub.fault(method, path, code)
    assert says in refused(capsys, "push", run, "org/tiny")
    assert not hub.repos or files(hub) == set()
    hub.heal()
    push(run, "org/tiny")
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(run)))


def test_a_connection_cut_once_goes_on_by_itself(hub: Loopback, run: Path) -> None:
    hub.fault("PUT", "/lfs/", cut, times=1)
    push(run, "org/tiny")
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(run)))


def test_an_interrupted_upload_publishes_nothing_and_sends_only_the_rest_next_time(
    hub: Loopback, run: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = push(other, "org/tiny").commit
    picture = hashlib.sha256((run / "images.png").read_bytes()).hexdigest()
    weights = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    hub.fault("PUT", f"/lfs/{weights}", cut)
    said = refused(capsys, "push", run, "org/tiny")
    assert "upload was interrupted" in said and "nothing was published" in said
    assert hub.repos["org/tiny"].refs["main"] == before
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(other)))
    hub.heal()
    hub.requests.clear()
    push(run, "org/tiny")
    sent = [path for method, path in hub.requests if method == "PUT"]
    assert sent == [f"/lfs/{weights}"] and picture in hub.objects
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(run)))


def test_missing_gated_private_revision_and_hub_down(hub: Loopback, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(run, "org/tiny", private=True)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"folder": "org/nothing"}, "there is no 'org/nothing' on the Hub"),
        ({"folder": "hub:org/tiny", "revision": "v9"}, "no such revision"),
        ({"folder": "hub:org"}, "names no repository"),
        ({"folder": "hub:org/--bad"}, "not a name on the Hub"),
    ]
    for arguments, says in cases:
        with pytest.raises(ZsqError, match=says):
            zsq.load(**arguments)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ZsqError, match="private and closed to you"):
        zsq.load("org/tiny")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repos["org/tiny"].gated = True
    with pytest.raises(ZsqError, match="is gated"):
        zsq.load("org/tiny")
    hub.fault("GET", "/api/models", 503)
    with pytest.raises(ZsqError, match="fails with 503"):
        zsq.load("org/other")


def test_offline_and_unreachable(hub: Loopback, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for act in (lambda: zsq.load("org/tiny"), lambda: push(run, "org/tiny")):
        with pytest.raises(ZsqError, match="offline mode is on"):
            act()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.shutdown()
    hub.server_close()
    for act in (lambda: zsq.load("org/tiny"), lambda: push(run, "org/tiny")):
        with pytest.raises(ZsqError, match="cannot be reached"):
            act()


def test_full_disk(hub: Loopback, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")

    push(run, "org/tiny")
    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(ZsqError, match="the disk is full"):
        zsq.load("org/tiny")
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ZsqError, match="No space left"):
        push(run, "org/tiny", dry_run=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_revision_of_a_folder(run: Path) -> None:
    with pytest.raises(FileError, match="is a folder"):
        zsq.load(run, revision="main")


def test_from_a_process_of_its_own_with_the_clients_variables(hub: Loopback, run: Path, images: Path, tmp_path: Path) -> None:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    for words in (["push", str(run), "org/tiny"], ["eval", "hub:org/tiny", "--eval", f"npz:{images}"]):
        done = subprocess.run([sys.executable, "-m", "zsq_cli.app", *words], env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "home/hub/models--org--tiny").is_dir()


def test_the_plugin_loads_nothing_heavy_by_itself() -> None:
    code = "import sys, zsq_hub; assert not {'torch', 'huggingface_hub'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


RUN = ["run", "py:zsq.testing.teachers:tiny", "--synth", "noise", "--quant", "uniform8", "--calib", "minmax", "--tune", "none"]
SPEC = ["teacher.shape=3,8,8", "teacher.mean=0.5,0.5,0.5", "teacher.std=0.2,0.2,0.2", "calib.batches=1", "run.batch_size=8"]


def test_run_and_push(hub: Loopback, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RUN, *(word for value in SPEC for word in ("--set", value)), "--eval", "agreement", "--out", str(tmp_path / "r"), "--json"]
    capsys.readouterr()
    assert main([*words, "--push", "org/tiny"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["student"]["weight_bits"] == 8
    assert hub.repos["org/tiny"].refs["main"] in captured.err
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(tmp_path / "r")))


def test_a_run_that_could_not_be_pushed_does_not_begin(
    hub: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    assert "does not accept your token" in refused(capsys, *RUN, "--out", tmp_path / "r", "--push", "org/tiny")
    assert "names no repository" in refused(capsys, *RUN, "--out", tmp_path / "r", "--push", "tiny")
    assert not (tmp_path / "r").exists()


def test_an_exported_file_that_does_not_verify_is_refused_unless_told_otherwise(
    hub: Loopback, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = Path(shutil.copytree(run, tmp_path / "exported"))
    (exported / "model.onnx").write_bytes(b"a graph")
    monkeypatch.setattr("zsq_cli.verify.verified", lambda folder: {"verified": folder != exported})
    assert "does not verify" in refused(capsys, "push", exported, "org/tiny")
    assert hub.requests == []
    assert main(["push", str(exported), "org/tiny", "--no-verify"]) == 0
    assert "model.onnx" in files(hub)
