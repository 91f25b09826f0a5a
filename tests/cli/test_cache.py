"""``zsq cache``: what is kept is listed with what it is of, and only what was named is removed."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from zsq.files import Cache


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pools and a sensitivity; of the Hub a student of zsq and a network of somebody else."""
    monkeypatch.setenv("ZSQ_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for kind, key in (("pools", "first"), ("pools", "second"), ("sensitivities", "third")):
        Cache(tmp_path / "own", kind).save({"synth": key, "seed": 12345678}, {"images": torch.ones(100)})
    config = {"format": 3, "sha256": "0", "modules": {}, "graph": [], "manifest": {}}
    for name, content in (("org--student", config), ("org--other", {"model_type": "vit"})):
        repo = tmp_path / "hub" / f"models--{name}"
        snapshot = repo / "snapshots" / ("a" * 40)
        for folder in (snapshot, repo / "blobs", repo / "refs"):
            folder.mkdir(parents=True)
        (repo / "refs" / "main").write_text("a" * 40)
        (repo / "blobs" / "one").write_text(json.dumps(content))
        (snapshot / "config.json").symlink_to(os.path.relpath(repo / "blobs" / "one", snapshot))
    return tmp_path


def names(zsq: Any) -> set[str]:
    return {entry["name"].split("/")[0] if entry["kind"] != "download" else entry["name"] for entry in entries(zsq)}


def entries(zsq: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(zsq("cache", "list", "--json").out)["entries"]
    return found


def test_what_is_kept_is_listed(kept: Path, zsq: Any) -> None:
    rows = entries(zsq)
    assert sorted((row["kind"], row["own"]) for row in rows) == [
        ("download", False),
        ("download", True),
        ("pools", True),
        ("pools", True),
        ("sensitivities", True),
    ]
    assert {row["what"] for row in rows if row["kind"] == "pools"} == {"synth first", "synth second"}
    assert all(row["bytes"] > 0 for row in rows)
    out = zsq("cache", "list").out
    assert "org/other" in out and "not of zsq" in out and str(kept / "own") in out


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ((), {"org/student", "org/other"}),
        (("--pools",), {"org/student", "org/other"}),
        (("--downloads",), {"pools", "sensitivities", "org/other"}),
        (("--pools", "--downloads"), {"org/other"}),
        (("sensitivities",), {"pools", "org/student", "org/other"}),
        (("org/other",), {"pools", "sensitivities", "org/student"}),
    ],
    ids=lambda names: " ".join(sorted(names)),
)
def test_only_what_is_meant_goes(words: tuple[str, ...], left: set[str], kept: Path, zsq: Any) -> None:
    done = zsq("cache", "clear", *words, "--yes")
    assert done.code == 0 and "removed" in done.out and names(zsq) == left


def test_one_entry_by_its_name(kept: Path, zsq: Any) -> None:
    name = next(entry["name"] for entry in entries(zsq) if entry["what"] == "synth first")
    assert zsq("cache", "clear", name, "--yes").code == 0
    assert [entry["what"] for entry in entries(zsq) if entry["kind"] == "pools"] == ["synth second"]


@pytest.mark.parametrize("name", ["pool", "download", "org/nobody", "../own", ""])
def test_an_unknown_name_removes_nothing(name: str, kept: Path, zsq: Any) -> None:
    done = zsq("cache", "clear", name, "--yes")
    assert done.code == 2 and len(done.err.splitlines()) <= 3 and len(entries(zsq)) == 5


def test_nothing_goes_unasked(kept: Path, zsq: Any) -> None:
    done = zsq("cache", "clear")
    assert done.code == 2 and "--yes" in done.err and "pools/" in done.err and len(entries(zsq)) == 5


@pytest.mark.parametrize(("answer", "left"), [("y\n", 2), ("n\n", 5), ("\n", 5), ("", 5)])
def test_who_is_there_is_asked(answer: str, left: int, kept: Path, zsq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert zsq("cache", "clear").code == 0 and len(entries(zsq)) == left


def test_downloads_of_others_are_called_so(kept: Path, zsq: Any) -> None:
    assert "not of zsq: other programs may use it" in zsq("cache", "clear", "org/other", "--yes").err


def test_damaged_files_are_listed_and_removed(kept: Path, zsq: Any) -> None:
    (kept / "own" / "pools" / f"{'0' * 32}.safetensors").write_bytes(b"\xff" * 9)
    assert "cannot be read" in {entry["what"] for entry in entries(zsq)}
    assert zsq("cache", "clear", "--yes").code == 0 and names(zsq) == {"org/student", "org/other"}


def test_files_of_others_in_the_same_folder_stay(kept: Path, zsq: Any) -> None:
    mine, linked = kept / "own" / "pools" / "model.safetensors", kept / "own" / "pools" / f"{'1' * 32}.safetensors"
    mine.write_bytes(b"precious")
    linked.symlink_to(mine)
    assert len(entries(zsq)) == 5
    assert zsq("cache", "clear", "--yes").code == 0 and mine.read_bytes() == b"precious" and linked.is_symlink()


def test_nothing_kept_is_no_error(tmp_path: Path, zsq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSQ_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nothing"))
    assert "nothing is kept" in zsq("cache", "list").out
    assert "nothing to remove" in zsq("cache", "clear").out
