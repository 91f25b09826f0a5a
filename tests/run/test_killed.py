"""Runs that are killed, at any moment: each goes on from its checkpoint and ends with the bits of a run left alone.

The killed ones are processes of their own, forked from this one, and the kill is SIGKILL.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from resuming import TUNE, die, forked, go_on, same, start

from zsq import events
from zsq._run.checkpoints import CheckpointFolder, checkpoint_folder, found

CHAINS: dict[str, dict[str, Any]] = {
    "qimera": {"synth": {"name": "qimera", "warmup": 4}, "calib": ["aac", "abn", "ema"], "tune": TUNE},
    "zeroq": {
        "synth": {"name": "zeroq", "images": 12, "batch": 4, "iterations": 4},
        "calib": ["percentile"],
        "tune": {"name": "clips", "steps": 5},
    },
    "zaq": {
        "synth": {"name": "zaq", "warmup": 2},
        "calib": ["aac"],
        "loss": ["logit-l1", "crm"],
        "tune": {**TUNE, "steps": 12},
    },
}


def killing_at(count: int) -> Callable[[events.Event], None]:
    """A listener that kills its own process at an event."""
    left = iter(range(count))

    def listen(_event: events.Event) -> None:
        if next(left, None) is None:
            die()

    return listen


def killing_while_writing(count: int, half: bool) -> None:
    """Kill this process when a checkpoint is half written, or when it is written and has not got its name."""
    write, sync, left = Path.write_bytes, os.fsync, iter(range(count))

    def write_bytes(path: Path, content: bytes) -> int:
        if path.name.startswith(".state-") and next(left, None) is None:
            if half:
                write(path, content[: len(content) // 2])
                die()
            os.fsync = lambda file: (sync(file), die())
        return write(path, content)

    Path.write_bytes = write_bytes  # type: ignore[assignment,method-assign]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[events.Event], float]]:
    """Every chain, left alone: its folder, its events, the seconds that it took."""
    folder, done = tmp_path_factory.mktemp("whole"), {}
    for name, chain in CHAINS.items():
        seen: list[events.Event] = []
        start(chain, folder / name, listeners=[seen.append])
        began = time.monotonic()
        start(chain, folder / name)
        done[name] = folder / name, seen, time.monotonic() - began
    return done


def moments(seen: list[events.Event], rng: random.Random) -> Iterator[int]:
    """The number of a random event in every phase that may be long, and in those that end the run."""
    phases: dict[str, list[int]] = {}
    now = ""
    for number, event in enumerate(seen):
        now = getattr(event, "phase", now)
        phases.setdefault(now, []).append(number)
    for phase, numbers in phases.items():
        if phase not in ("", "teacher", "quantize"):
            yield rng.choice(numbers[:-1] if phase == "export" else numbers)  # then all is done


@pytest.mark.fault(
    "`kill -9` at a random moment of every phase of a Qimera, a ZeroQ and a ZAQ run (17 in all), a checkpoint being written at every step",
    "`zsq run --resume` ends with the same `model.safetensors`, byte for byte, as the run left alone",
)
@pytest.mark.parametrize("name", CHAINS)
def test_killed_at_a_random_moment_of_every_phase(name: str, whole: Any, tmp_path: Path) -> None:
    folder, seen, _ = whole[name]
    numbers = list(moments(seen, random.Random(name)))
    assert len(numbers) >= 5, "prepare, calibrate, tune, evaluate, export"
    for number in numbers:
        assert forked(lambda n=number: start(CHAINS[name], tmp_path / name, listeners=[killing_at(n)]) and 0) == -signal.SIGKILL
        go_on(tmp_path / name)
        assert same(tmp_path / name, folder), seen[number]


@pytest.mark.fault(
    "`kill -9` while a checkpoint is half written, and when it is written but has not got its name",
    "the run goes on from the checkpoint before",
)
@pytest.mark.parametrize(("name", "half"), [("qimera", True), ("zeroq", False), ("zaq", True)])
def test_killed_while_a_checkpoint_is_written(name: str, half: bool, whole: Any, tmp_path: Path) -> None:
    def work() -> None:
        killing_while_writing(random.Random(f"{name}{half}").randrange(2, 12), half)
        start(CHAINS[name], tmp_path / name)

    assert forked(work) == -signal.SIGKILL
    assert list((tmp_path / f"{name}.checkpoint").glob(".state-*.tmp"))
    go_on(tmp_path / name)
    assert same(tmp_path / name, whole[name][0])


@pytest.mark.fault("`kill -9` at a random time, and again while the run goes on", "the same bytes in the end")
def test_killed_again_and_again(whole: Any, tmp_path: Path) -> None:
    (folder, _, seconds), target = whole["zeroq"], tmp_path / "zeroq"
    rng = random.Random()

    def work() -> None:
        if found(checkpoint_folder(target)):
            go_on(target)
        else:
            start(CHAINS["zeroq"], target)

    for _ in range(3):
        code = forked(work, seconds * rng.uniform(0.2, 0.6))
        if (target / "report.json").exists():
            break
        assert code == -signal.SIGKILL
    else:
        work()
    CheckpointFolder(checkpoint_folder(target), 0, print).clear()  # where the kill fell between the last two steps of all
    assert same(target, folder)
