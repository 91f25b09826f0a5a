"""The run folder: made beside its target and renamed into place, so that it appears whole or not at all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from zsq.errors import FileError
from zsq.files import scratch_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock

#: A folder with this file is a run, and another run may replace it.
MARK = "report.json"


class RunFolder:
    """``with RunFolder(target) as out``: write into ``out.scratch``, then call ``out.publish()``; without that, nothing remains.

    Args:
        target: Where the run will be, or None to write nothing.
        adopt: Name of the scratch folder of the same run before it was interrupted; its files stay.

    If ``left`` is True, the scratch folder stays on exit, to be adopted later.

    Raises:
        FileError: If ``target`` exists and is not a run, or if another process is making it.
    """

    def __init__(self, target: Path | None, adopt: str = "") -> None:
        self.target, self.scratch = target, None if target is None else Path()
        self.adopt, self.left = adopt, False
        self._made: list[Path] = []
        self._lock: BaseFileLock | None = None
        if target is not None and target.exists() and not (target / MARK).is_file() and (not target.is_dir() or any(target.iterdir())):
            raise FileError(f"'{target}' exists and is not a run", "--out", "choose another folder, or remove this one yourself")

    def __enter__(self) -> RunFolder:
        if self.target is not None:
            target = self.target.absolute()
            self._made = [path for path in target.parents if not path.exists()]
            self._lock = _lock(target)
            pattern = re.compile(re.escape(f".{target.name}.zsq-") + "[a-z0-9_]{8}")  # scratch folders of killed runs
            left = [p for p in target.parent.iterdir() if pattern.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]
            self.scratch = next((folder for folder in left if folder.name == self.adopt), None) or scratch_folder(target)
            for folder in left:
                if folder != self.scratch:
                    shutil.rmtree(folder, ignore_errors=True)
            for path in self.scratch.glob(".*.tmp"):  # half-written
                path.unlink()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock is not None:
            Path(self._lock.lock_file).unlink(missing_ok=True)  # before the release: who waits for it then makes a new one
            self._lock.release()
        if self.scratch is not None and not self.left:
            shutil.rmtree(self.scratch, ignore_errors=True)
            for parent in self._made:  # made for this run only
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise FileError(f"cannot write the run: {reason}", str(self.target), "free some space or choose another --out") from error

    def publish(self) -> None:
        """Rename the finished folder to the target, and then remove the run that was there before."""
        assert self.target is not None and self.scratch is not None
        self.scratch.chmod(0o755)
        old = None
        if self.target.exists():
            old = scratch_folder(self.target.absolute())
            self.target.replace(old)
        self.scratch.replace(self.target)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)


def _lock(target: Path) -> BaseFileLock:
    """The lock ``.NAME.lock`` of the one process that makes the run; the system releases it if the process dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise FileError("another process is making this run", str(target), "wait for it, end it, or choose another --out") from None
    except OSError as error:
        raise FileError(f"cannot create a file: {error.strerror or error}", str(target.parent), "choose another --out") from error
    return lock
