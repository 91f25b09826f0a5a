"""The folder of a run: made beside its target and renamed into place, so that it is there whole or not at all."""

from __future__ import annotations

import os
import re
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
        adopt: Name of the folder beside it that the same run was made in before it was cut off; what is in it stays.

    ``left`` set to True leaves the folder that the run is made in, to be adopted later.

    Raises:
        FileError: When ``target`` exists and is not a run: nobody's files are overwritten; or when another process is making it.
    """

    def __init__(self, target: Path | None, adopt: str = "") -> None:
        self.target, self.scratch = target, None if target is None else Path()
        self.adopt, self.left = adopt, False
        self._made: list[Path] = []
        self._lock: Lock | None = None
        if target is not None and target.exists() and not (target / MARK).is_file() and (not target.is_dir() or any(target.iterdir())):
            raise FileError(f"'{target}' exists and is not a run", "--out", "choose another folder, or remove this one yourself")

    def __enter__(self) -> RunFolder:
        if self.target is not None:
            self._made = [p for p in self.target.absolute().parents if not p.exists()]
            self._lock = Lock(self.target.absolute())
            before = self._left_behind() if self._lock.held else []
            self.scratch = next((folder for folder in before if folder.name == self.adopt), None) or scratch_folder(self.target.absolute())
            for folder in before:
                if folder != self.scratch:
                    shutil.rmtree(folder, ignore_errors=True)
            for path in self.scratch.glob(".*.tmp"):  # half-written
                path.unlink()
        return self

    def _left_behind(self) -> list[Path]:
        """Folders that runs to this target were made in and that were cut off, each by the process being killed."""
        assert self.target is not None
        target = self.target.absolute()
        pattern = re.compile(re.escape(f".{target.name}.zsq-") + "[a-z0-9_]{8}")
        return [p for p in target.parent.iterdir() if pattern.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.release()
        if self.scratch is not None and not self.left:
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


class Lock:
    """Held by the one process that makes a run; gone with the process, however that ends. Nothing where the system has no such locks.

    Args:
        target: Where the run will stand; the lock is the file ``.NAME.lock`` beside it.

    Raises:
        FileError: When another process holds it.
    """

    def __init__(self, target: Path) -> None:
        self.path, self.file = target.with_name(f".{target.name}.lock"), None
        try:
            import fcntl
        except ImportError:
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            while True:
                self.file = self.path.open("a")
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._in_place():
                    return
                self.file.close()
        except BlockingIOError:
            raise FileError("another process is making this run", str(target), "wait for it, end it, or choose another --out") from None
        except OSError as error:
            raise FileError(f"cannot create a file: {error.strerror or error}", str(target.parent), "choose another --out") from error

    def _in_place(self) -> bool:
        """Whether the locked file is still the one of that name: who held it before may have removed it in between."""
        assert self.file is not None
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    @property
    def held(self) -> bool:
        """Whether there is no other process that makes the run."""
        return self.file is not None

    def release(self) -> None:
        """Let others have it."""
        if self.file is not None:
            self.path.unlink(missing_ok=True)
            self.file.close()
