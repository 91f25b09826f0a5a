"""Runs that end before their time, and go on: what the tests of it share."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zsq import events
from zsq._manager import Manager
from zsq._run.checkpoints import reopen
from zsq._run.engine import Finished, run
from zsq.testing._chains import tiny_run

TUNE = {"name": "finetune", "steps": 6, "lr": 0.01}
#: A chain in which little happens.
PLAIN: dict[str, Any] = {"calib": ["minmax"], "tune": TUNE}


def start(chain: Mapping[str, Any], folder: Path, **named: Any) -> Finished:
    """Run a chain with a checkpoint at every step."""
    return tiny_run({**chain, "run": {"checkpoint": 0, **chain.get("run", {})}}, folder=folder, **named)


def go_on(folder: Path, manager: Manager | None = None) -> list[str]:
    """Do what ``zsq run --resume`` does; what it says."""
    words: list[str] = []
    manager = manager or Manager.discover()
    plan, saved = reopen(folder, manager)
    run(plan, folder, manager=manager, saved=saved, listeners=[hearing(words)])
    return words


def hearing(words: list[str]) -> Callable[[events.Event], None]:
    """A listener that keeps what a run says in ``words``."""
    return lambda event: words.append(event.text) if isinstance(event, events.Message) else None


def tuning_at(step: int, end: Callable[[], None]) -> Callable[[events.Event], None]:
    """A listener that does ``end`` at a step of the tuner."""
    return lambda event: end() if isinstance(event, events.Stepped) and event.phase.startswith("tune") and event.step == step else None


def interrupt() -> None:
    raise KeyboardInterrupt


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], Any], kill_after: float | None = None) -> int:
    """Run ``work`` in a process of its own; minus the signal that ended it, or its exit code."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            code = work() or 0
        finally:
            os._exit(code if isinstance(code, int) else 0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def same(folder: Path, other: Path) -> bool:
    """Whether two runs ended with the same files, and nothing else is left of ``folder``'s."""
    names = ("model.safetensors", "config.json", "recipe.yaml", "images.png")
    assert sorted(p.name for p in folder.parent.iterdir() if p.name.lstrip(".").startswith(folder.name)) == [folder.name]
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)
