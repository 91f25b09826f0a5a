"""Every fault is one message, with nothing half-published, and nothing half-written here."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hubtest import answers, files, refused
from huggingface_hub import constants, file_download
from loopback import TOKEN, Loopback, cut, drop, half
from zsq_hub.push import push

import zsq
from zsq.errors import ZsqError
from zsq_cli.app import main

FULL = Path("/dev/full")
EVAL = ("eval", "hub:org/tiny", "--eval")


def leftovers(cache: Path) -> list[Path]:
    """Files in the client's cache that no download finished."""
    return [path for path in cache.rglob("*") if path.name.endswith(".incomplete") and path.stat().st_size]


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
        ("POST", "/commit/", 500, "the Hub fails with 500"),
        ("PUT", "/lfs/", 503, "the Hub fails with 503"),
        ("POST", "/objects/batch", 500, "the Hub fails with 500"),
        ("POST", "/preupload/", 429, "fewer requests"),
        ("POST", "/commit/", 418, "refuses with 418"),
        ("POST", "/commit/", cut, "the upload was interrupted"),
    ],
)
def test_refused_push(hub: Loopback, run: Path, capsys: pytest.CaptureFixture[str], method: str, path: str, code: Any, says: str) -> None:
    hub.fault(method, path, code)
    assert says in refused(capsys, "push", run, "org/tiny")
    assert not hub.repos or files(hub) == set()


@pytest.mark.parametrize(
    ("method", "path", "code", "says"),
    [
        ("GET", "xet-write-token", 403, "may not write to 'org/tiny'"),
        ("GET", "xet-write-token", 503, "the Hub fails with 503"),
        ("POST", "/xorbs/", 503, "the Hub fails with 503"),
        ("POST", "/xorbs/", cut, "the upload was interrupted"),
        ("POST", "/shards", 500, "the Hub fails with 500"),
        ("POST", "/commit/", 503, "the Hub fails with 503"),
    ],
)
def test_refused_push_by_xet(
    xet: Loopback, run: Path, capsys: pytest.CaptureFixture[str], method: str, path: str, code: Any, says: str
) -> None:
    xet.fault(method, path, code)
    said = refused(capsys, "push", run, "org/tiny")
    assert says in said and "/xet/" not in said
    assert files(xet) == set()


def test_a_server_that_fails_once_is_asked_again(hub: Loopback, run: Path) -> None:
    for path in ("/objects/batch", "/lfs/"):
        hub.fault("POST" if "batch" in path else "PUT", path, 503, times=1)
    push(run, "org/tiny")
    hub.fault("GET", "/lfs/", drop, times=1)
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(run)))


def test_a_connection_cut_once_goes_on_by_itself(store: Loopback, run: Path) -> None:
    store.fault("PUT", "/lfs/", cut, times=1)
    store.fault("POST", "/xorbs/", cut, times=1)
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


def test_an_upload_by_xet_that_was_cut_before_its_commit_is_not_sent_again(
    xet: Loopback, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xet.fault("POST", "/commit/", cut)
    assert "upload was interrupted" in refused(capsys, "push", run, "org/tiny")
    xet.heal()
    xet.requests.clear()
    push(run, "org/tiny")
    assert not [path for _, path in xet.requests if "/v1/xorbs/" in path]
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(run)))


def test_an_interrupt_publishes_nothing(
    hub: Loopback, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub._commit_api.lfs_upload", interrupt)
    assert main(["push", str(run), "org/tiny"]) == 130
    assert "interrupted" in capsys.readouterr().err and files(hub) == set()


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


def test_a_download_that_breaks_off_goes_on_where_it_was(hub: Loopback, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(run, "org/tiny")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64)
    hub.fault("GET", "/lfs/", half, times=2)
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(run)))
    assert len([path for method, path in hub.requests if method == "GET" and path.startswith("/lfs/")]) == 3
    assert hub.ranges, "the rest was asked for, not all of it again"


@pytest.mark.parametrize(
    ("path", "answer", "says"),
    [
        ("/lfs/", drop, "connection to the Hub was lost"),
        ("/lfs/", 500, "fails with 500"),
        ("/lfs/", 403, "may not read"),
        ("config.json", 503, "fails with 503"),
    ],
)
def test_an_interrupted_download_leaves_nothing(
    hub: Loopback,
    run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    answer: Any,
    says: str,
) -> None:
    push(run, "org/tiny")
    hub.fault("GET", path, answer)
    assert says in refused(capsys, *EVAL, f"npz:{images}")
    lacking = path if path.endswith("json") else "model.safetensors"
    assert not leftovers(tmp_path / "cache") and not list((tmp_path / "cache").rglob(lacking))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ZsqError, match="offline mode is on, and 'org/tiny' is not in the cache"):
        zsq.load("org/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.heal()
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(run)))


@pytest.mark.parametrize(
    ("path", "answer", "says"),
    [
        ("/xorb/", drop, "connection to the Hub was lost"),
        ("/xorb/", 503, "fails with 503"),
        ("/reconstructions/", 500, "fails with 500"),
        ("xet-read-token", 403, "may not read"),
    ],
)
def test_an_interrupted_download_by_xet_leaves_nothing(
    xet: Loopback, run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, answer: Any, says: str
) -> None:
    push(run, "org/tiny")
    xet.fault("GET", path, answer)
    assert says in refused(capsys, *EVAL, f"npz:{images}")
    assert not leftovers(tmp_path / "cache") and not list((tmp_path / "cache").rglob("model.safetensors"))
    xet.heal()
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(run)))


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
def test_full_disk_while_downloading(
    store: Loopback, run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push(run, "org/tiny")
    get, by_xet = file_download.http_get, file_download.xet_get

    def full(url: str, temp_file: Any, **more: Any) -> None:
        with FULL.open("wb", buffering=0) as disk:
            get(url, disk, **more)

    def full_by_xet(*, incomplete_path: Path, **more: Any) -> None:
        incomplete_path.unlink(missing_ok=True)
        incomplete_path.symlink_to(FULL)
        by_xet(incomplete_path=incomplete_path, **more)

    with monkeypatch.context() as broken:
        broken.setattr(file_download, "http_get", full)
        broken.setattr(file_download, "xet_get", full_by_xet)
        said = refused(capsys, *EVAL, f"npz:{images}")
        assert "the disk is full" in said and "HF_HOME" in said
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    assert torch.equal(answers(zsq.load("org/tiny")), answers(zsq.load(run)))


def test_full_disk_while_writing_a_dry_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"the first half")
        with FULL.open("wb", buffering=0) as disk:
            disk.write(b"the second")

    monkeypatch.setattr(shutil, "copyfile", full)
    said = refused(capsys, "push", run, "org/tiny", "--dry-run", tmp_path / "new/out")
    assert os.strerror(28) in said and "another --dry-run" in said
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / "new/out").exists()
