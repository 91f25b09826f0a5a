"""Checks for exporters."""

from __future__ import annotations

from zsq.testing import _exercise as exercise
from zsq.testing._kit import Case


def check_writes_files_inside_the_folder(case: Case) -> None:
    """It returns the paths of what it wrote: existing, not empty, inside the folder it was given, and nothing else lies there."""
    from zsq.testing.world import make_teacher

    files = exercise.export(case, make_teacher(), 0)
    assert files, "it wrote nothing"
    assert all(content for _, content in files), "an empty file"
    folder = case.folder / "export"
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {name for name, _ in files}
    assert not left, f"files that it did not name: {', '.join(sorted(left))}"
