"""Runs that are killed, stopped, damaged or out of space: each goes on from its checkpoint and ends with the bits of a run left alone.

The killed ones are processes of their own, forked from this one, and the kill is SIGKILL.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import zsq.run.resume as resume
from zsq import events
from zsq.errors import FileError, ZsqError
from zsq.manager import Manager
from zsq.run import checkpoint
from zsq.run.engine import Result, run
from zsq.run.interrupt import Interrupted
from zsq.testing.chains import tiny_run

EVERY_STEP = {"checkpoint": 0}
TUNE = {"name": "finetune", "steps": 6, "lr": 0.01}
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


def start(chain: Mapping[str, Any], folder: Path, **named: Any) -> Result:
    """Run a chain with a checkpoint at every step."""
    return tiny_run({**chain, "run": {**EVERY_STEP, **chain.get("run", {})}}, folder=folder, **named)


def go_on(folder: Path, **named: Any) -> Result:
    """What ``zsq run --resume`` does."""
    manager = Manager.discover()
    plan, saved = resume.reopen(folder, manager)
    return run(plan, folder, manager=manager, saved=saved, **named)


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


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


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


def same(folder: Path, other: Path) -> bool:
    """Whether two runs ended with the same files, and nothing else is left of ``folder``'s."""
    names = ("model.safetensors", "config.json", "recipe.yaml", "images.png")
    assert sorted(p.name for p in folder.parent.iterdir() if p.name.lstrip(".").startswith(folder.name)) == [folder.name]
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


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
    for number in moments(seen, random.Random(name)):
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
        if resume.found(checkpoint.beside(target)):
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
    resume.clear(checkpoint.beside(target))  # where the kill fell between the last two steps of all
    assert same(target, folder)


MORE: dict[str, dict[str, Any]] = {
    "lrq and ait": {"synth": {"name": "lrq", "train_data": "both"}, "calib": ["minmax"], "tune": {"name": "ait", "steps": 4}},
    "a spectrum on a plateau, deploy": {
        "synth": {"name": "zeroq-spectrum", "schedule": "plateau"},
        "quant": {"name": "squant4", "protocol": "deploy"},
        "calib": ["minmax", "bias-correction"],
        "tune": "clips",
    },
    "ranges watched, batch statistics": {
        "synth": {"name": "zaq", "watch": True},
        "calib": [],
        "tune": {**TUNE, "range_lr": 0, "optimizer": "adam", "batch_norm": "train"},
    },
    "pareto, looked at": {
        "synth": {"name": "intraq", "images": 8},
        "quant": "pareto",
        "calib": ["percentile"],
        "tune": TUNE,
        "run": {"calibrated": True},
    },
}


@pytest.mark.fault("stopped at a random step of other chains of components", "the same bytes in the end")
@pytest.mark.parametrize("name", MORE)
def test_other_chains_go_on(name: str, tmp_path: Path) -> None:
    seen: list[events.Event] = []
    start(MORE[name], tmp_path / "whole", listeners=[seen.append])
    steps = [number for number, event in enumerate(seen) if isinstance(event, events.Stepped)]
    number = random.Random(name).choice(steps[len(steps) // 2 :])

    def interrupt(_event: events.Event, left: Iterator[int] = iter(range(number))) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"zsq run --resume .*cut"):
        start(MORE[name], tmp_path / "cut", listeners=[interrupt])
    go_on(tmp_path / "cut")
    assert same(tmp_path / "cut", tmp_path / "whole"), seen[number]


# -- what is on the disk -----------------------------------------------------------------------------------------------


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A run that was stopped while it was tuned, with two checkpoints."""

    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.phase.startswith("tune") and event.step == 4:
            raise KeyboardInterrupt

    start(PLAIN, tmp_path / "whole")
    with pytest.raises(Interrupted):
        start(PLAIN, tmp_path / "cut", listeners=[interrupt])
    return tmp_path / "cut"


PLAIN: dict[str, Any] = {"calib": ["minmax"], "tune": TUNE}


def said(folder: Path) -> list[str]:
    """Go on with a run; what it says."""
    words: list[str] = []
    go_on(folder, listeners=[lambda event: words.append(event.text) if isinstance(event, events.Message) else None])
    return words


@pytest.mark.fault(
    "any byte of the newest checkpoint flipped, the file cut short, emptied, or in the place of another",
    "a message, the run goes on from the checkpoint before, and ends with the same bytes",
)
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "swap"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(harm: str, cut: Path) -> None:
    (newest, path), (older, before) = resume.found(checkpoint.beside(cut))
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes({"flip": content, "cut": content[: len(content) // 2], "empty": b"", "swap": before.read_bytes()}[harm])
    assert said(cut)[:2] == [f"checkpoint {newest} is damaged: going back to the one before", "going on at step 2 of tune:finetune"]
    assert newest == older + 1 and same(cut, cut.with_name("whole"))


def test_no_flipped_bit_goes_unseen(tmp_path: Path) -> None:
    checkpoints = resume.Checkpoints(tmp_path, 0, print)
    assert checkpoints.write({"format": resume.FORMAT, "at": 3}) and checkpoints.write({"format": resume.FORMAT, "at": 4})
    (_, path), _ = resume.found(tmp_path)
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1 << position % 8]) + content[position + 1 :])
        found = resume.read(tmp_path)
        assert found["at"] == 3 and len(found["notes"]) == 1, position


def test_when_all_are_damaged_nothing_is_done(cut: Path) -> None:
    for _, path in resume.found(checkpoint.beside(cut)):
        path.write_bytes(b"")
    with pytest.raises(FileError, match=r"every checkpoint is damaged(.|\n)*without --resume"):
        go_on(cut)


def test_two_are_kept_and_both_are_gone_in_the_end(cut: Path) -> None:
    assert [path.suffix for path in checkpoint.beside(cut).iterdir()] == [".safetensors"] * 2
    go_on(cut)
    assert not checkpoint.beside(cut).exists()


@pytest.mark.fault("the disk is full when checkpoints are written", "said once; the run goes on and ends with the same bytes")
def test_a_full_disk_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(PLAIN, tmp_path / "whole")
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name.startswith(".state-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    words: list[str] = []
    start(PLAIN, tmp_path / "full", listeners=[lambda event: words.append(event.text) if isinstance(event, events.Message) else None])
    assert len(words) == 1 and "No space left" in words[0]
    assert same(tmp_path / "full", tmp_path / "whole")


@pytest.mark.fault("the disk is full, or a plugin breaks, after the student was tuned", "once that is mended the run goes on from there")
def test_what_broke_at_the_end_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(PLAIN, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(FileError, match="No space left"):
        patch.setattr("zsq.builtin.safetensors.write_atomic", _no_space)
        start(PLAIN, tmp_path / "run")
    assert said(tmp_path / "run") == ["going on at the beginning of evaluate"]
    assert same(tmp_path / "run", tmp_path / "whole")


def _no_space(*_: object) -> None:
    raise FileError("cannot write model.safetensors: No space left on device")


# -- what takes part ---------------------------------------------------------------------------------------------------

STATELESS = """
from zsq import Component, Options, hookimpl
from zsq.builtin.finetune import Finetune
from zsq.testing.world import AlternatingNoise
from zsq.types import Update


class Generator(AlternatingNoise):
    def __init__(self, options, ctx):
        super().__init__(ctx.teacher)


class Tuner:
    def __init__(self, options, ctx):
        from zsq.builtin.options import FinetuneOptions
        self.inner = Finetune(FinetuneOptions(steps=6, lr=0.01), ctx)

    def fit(self, *given):
        yield from self.inner.fit(*given)


@hookimpl
def zsq_synthesizers():
    yield Component("no-state", f"{__name__}:Generator", Options, "Keeps no state.", needs={"teacher.output", "student.output"})


@hookimpl
def zsq_tuners():
    yield Component("no-state-tuner", f"{__name__}:Tuner", Options, "Keeps no state.", needs={"student.output"})
"""

CAPPED = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8),
                         nn.ReLU6(), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
"""


@pytest.mark.fault(
    "a run stopped in a component that keeps no state (third parties need not)",
    "a calibrator or tuner begins its work again, a synthesizer the whole run; the same bytes in the end",
)
@pytest.mark.parametrize(
    ("chain", "at"),
    [
        ({**PLAIN, "tune": "no-state-tuner"}, "going on at the beginning of tune:no-state-tuner"),
        ({**PLAIN, "synth": "no-state"}, "going on at the beginning of the run"),
    ],
    ids=["tuner", "synthesizer"],
)
def test_components_without_state_begin_again(chain: dict[str, Any], at: str, tmp_path: Path) -> None:
    file = tmp_path / f"keeps_{len(at)}.py"
    file.write_text(STATELESS)
    manager = Manager.discover(files=[file])

    def die_at_three(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.phase.startswith("tune") and event.step == 3:
            die()

    start(chain, tmp_path / "whole", manager=manager)
    assert forked(lambda: start(chain, tmp_path / "cut", manager=manager, listeners=[die_at_three])) == -signal.SIGKILL
    words: list[str] = []
    plan, saved = resume.reopen(tmp_path / "cut", manager)
    listener = lambda event: words.append(event.text) if isinstance(event, events.Message) else None  # noqa: E731
    run(plan, tmp_path / "cut", manager=manager, saved=saved, listeners=[listener])
    assert words == [at] and same(tmp_path / "cut", tmp_path / "whole")


def test_a_calibrator_that_changed_the_graph_is_repeated(tmp_path: Path) -> None:
    """``cle`` gives a bounded ReLU one bound per channel: the student that is quantized anew has no such operation yet."""
    (tmp_path / "net.py").write_text(CAPPED)
    teacher = {"ref": f"py:{tmp_path / 'net.py'}:build", "shape": [3, 8, 8], "mean": [0.0] * 3, "std": [1.0] * 3, "classes": 4}
    chain = {**PLAIN, "teacher": teacher, "calib": ["cle", "minmax"], "quant": {"name": "uniform4", "protocol": "deploy"}}

    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.phase.startswith("tune") and event.step == 3:
            raise KeyboardInterrupt

    start(chain, tmp_path / "whole")
    with pytest.raises(Interrupted):
        start(chain, tmp_path / "cut", listeners=[interrupt])
    assert resume.read(checkpoint.beside(tmp_path / "cut"))["changed"] == [1]
    go_on(tmp_path / "cut")
    assert same(tmp_path / "cut", tmp_path / "whole")


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from zsq.testing.teachers import tiny as build\n")
    teacher = {"ref": f"py:{file}:build", "shape": [3, 8, 8], "mean": [0.0] * 3, "std": [1.0] * 3, "classes": 4}

    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.phase.startswith("tune"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        start({**PLAIN, "teacher": teacher}, tmp_path / "cut", listeners=[interrupt])
    file.write_text("from zsq.testing.teachers import tiny\n\ndef build():\n    net = tiny()\n    net.linear.bias += 1\n    return net\n")
    with pytest.raises(ZsqError, match="the teacher is another than"):
        go_on(tmp_path / "cut")


@pytest.mark.fault("two processes make the same run", "the second is refused")
def test_one_process_at_a_time(tmp_path: Path) -> None:
    def second(event: events.Event) -> None:
        if isinstance(event, events.PhaseStarted) and event.phase.startswith("tune"):
            with pytest.raises(FileError, match="another process is making this run"):
                go_on(tmp_path / "run")

    start(PLAIN, tmp_path / "run", listeners=[second])
