"""Two ways to run the command line: in this process, and in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from zsq_cli.app import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def zsq(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """``zsq("plan", "--synth", "noise")`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Done:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture
def zsq_process(tmp_path: Path) -> Callable[..., Done]:
    """The same in a process of its own; ``path`` goes in front of what it can import."""

    def call(*words: object, path: Path | None = None) -> Done:
        found = os.pathsep.join(str(p) for p in (path, os.environ.get("PYTHONPATH")) if p)
        env = {**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "zsq_cli.app", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, check=False, timeout=280)
        return Done(done.returncode, done.stdout, done.stderr)

    return call
