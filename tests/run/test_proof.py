"""The result of `zsq verify` counts only for the files that it looked at."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from zsq import SavedRun
from zsq._api.saved import VERIFIED


def keep(run: Path, *names: str) -> None:
    files = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}
    (run / VERIFIED).write_text(json.dumps({"exported": "lab", "files": files, "verified": True}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "graph.bin").write_bytes(b"a graph")
    (tmp_path / "weights.bin").write_bytes(b"its weights")
    keep(tmp_path, "graph.bin", "weights.bin")
    return tmp_path


def test_the_result_is_kept_for_its_files(run: Path) -> None:
    found = SavedRun(run).proof
    assert found is not None and found["exported"] == "lab" and found["verified"]


def test_a_changed_or_missing_file_has_no_proof(run: Path) -> None:
    (run / "weights.bin").write_bytes(b"other weights")
    assert SavedRun(run).proof is None
    (run / "weights.bin").unlink()
    assert SavedRun(run).proof is None


@pytest.mark.parametrize("files", [None, [], {}, ["graph.bin"], {"graph.bin": 1}, {"graph.bin": None}, "graph.bin", 3])
def test_a_proof_that_names_no_files_is_none(run: Path, files: Any) -> None:
    (run / VERIFIED).write_text(json.dumps({"exported": "lab", "files": files, "verified": True}))
    assert SavedRun(run).proof is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_damaged_proof_is_none(run: Path, text: str) -> None:
    (run / VERIFIED).write_text(text)
    assert SavedRun(run).proof is None


def test_no_file_outside_the_run_is_read(run: Path) -> None:
    (inner := run / "inner").mkdir()
    keep(inner, "../graph.bin")
    assert SavedRun(inner).proof is None
