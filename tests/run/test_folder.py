"""Run folders and atomic files: whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from zsq._run.folder import RunFolder
from zsq.errors import FileError
from zsq.files import inside, write_atomic


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_published_run_replaces_the_run_before(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with RunFolder(tmp_path / "run") as out:
            (out.scratch / "report.json").write_text(text)
            out.publish()
    assert listing(tmp_path) == ["run"] and (tmp_path / "run" / "report.json").read_text() == "second"


def test_a_failed_run_leaves_the_run_before_as_it_was(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as out:
        (out.scratch / "report.json").write_text("good")
        out.publish()
    with pytest.raises(RuntimeError), RunFolder(tmp_path / "run") as out:
        (out.scratch / "report.json").write_text("bad")
        raise RuntimeError
    assert listing(tmp_path) == ["run"] and (tmp_path / "run" / "report.json").read_text() == "good"


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No space left"), RunFolder(tmp_path / "runs" / "deep" / "run"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_not_a_run_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "mine"
    if kind == "file":
        target.write_text("x")
    else:
        target.mkdir()
        (target / "thesis.txt").write_text("x")
    with pytest.raises(FileError, match="is not a run"):
        RunFolder(target)


def test_write_atomic_keeps_the_good_file_when_writing_fails(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "a", "good")

    def fail(beside: Path) -> None:
        beside.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FileError, match="No space left"):
        write_atomic(path, fail)
    assert listing(tmp_path) == ["a"] and path.read_text() == "good"


def test_paths_stay_inside_their_folder(tmp_path: Path) -> None:
    assert inside(tmp_path, "a/b") == tmp_path.resolve() / "a" / "b"
    for name in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(FileError, match="outside"):
            inside(tmp_path, name)
