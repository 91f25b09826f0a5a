"""The folder of a run: made beside its target and renamed into place, so that it is there whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType

from zsq.errors import FileError
from zsq.files import scratch_folder

#: A folder with this file is a run, and may be replaced by another run.
MARK = "report.json"


class RunFolder:
    """``with RunFolder(target) as out``: write into ``out.scratch``, then ``out.publish()``; left otherwise, nothing remains.

    Args:
        target: Where the run will stand, or None to write nothing.

    Raises:
        FileError: When ``target`` exists and is not a run: nobody's files are overwritten.
    """

    def __init__(self, target: Path | None) -> None:
        self.target, self.scratch = target, None if target is None else Path()
        self._made: list[Path] = []
        if target is not None and target.exists() and not (target / MARK).is_file() and (not target.is_dir() or any(target.iterdir())):
            raise FileError(f"'{target}' exists and is not a run", "--out", "choose another folder, or remove this one yourself")

    def __enter__(self) -> RunFolder:
        if self.target is not None:
            self._made = [p for p in self.target.absolute().parents if not p.exists()]
            self.scratch = scratch_folder(self.target.absolute())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)
            for parent in self._made:  # folders made for a run that never came
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise FileError(f"cannot write the run: {reason}", str(self.target), "free some space or choose another --out") from error

    def publish(self) -> None:
        """Put the finished folder in place of the target, and only then remove the run that stood there."""
        assert self.target is not None and self.scratch is not None
        self.scratch.chmod(0o755)
        old = None
        if self.target.exists():
            old = scratch_folder(self.target.absolute())
            self.target.replace(old)
        self.scratch.replace(self.target)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
