"""What `zsq verify` found counts for the very files that it looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zsq._run.folder import VERIFIED, keep_proof, read_proof
from zsq.errors import FileError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "graph.bin").write_bytes(b"a graph")
    (tmp_path / "weights.bin").write_bytes(b"its weights")
    keep_proof(tmp_path, {"exported": "lab", "files": ["graph.bin", "weights.bin"], "verified": True})
    return tmp_path


def test_what_was_found_is_there_with_the_files_it_is_about(run: Path) -> None:
    found = read_proof(run)
    assert found is not None and found["exported"] == "lab" and found["verified"]
    assert sorted(found["files"]) == ["graph.bin", "weights.bin"] and all(len(digest) == 64 for digest in found["files"].values())


def test_another_file_since_has_no_proof(run: Path) -> None:
    (run / "weights.bin").write_bytes(b"other weights")
    assert read_proof(run) is None
    (run / "weights.bin").unlink()
    assert read_proof(run) is None


@pytest.mark.parametrize("files", [None, [], {}, ["graph.bin"], {"graph.bin": 1}, {"graph.bin": None}, "graph.bin", 3])
def test_a_proof_that_names_no_files_is_none(run: Path, files: Any) -> None:
    (run / VERIFIED).write_text(json.dumps({"exported": "lab", "files": files, "verified": True}))
    assert read_proof(run) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_damaged_proof_is_none(run: Path, text: str) -> None:
    (run / VERIFIED).write_text(text)
    assert read_proof(run) is None


def test_no_file_outside_the_run_is_looked_at(run: Path) -> None:
    (inner := run / "inner").mkdir()
    with pytest.raises(FileError, match="outside"):
        keep_proof(inner, {"files": ["../graph.bin"]})
    (inner / VERIFIED).write_text((run / VERIFIED).read_text().replace("graph.bin", "../graph.bin"))
    assert read_proof(inner) is None
