"""Nan and infinity stop a run with one message, and the last good student is kept beside the run's folder."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import zsq
from zsq._manager import Manager
from zsq._run import stopping
from zsq._run.stopping import LastGood, NotFinite, Watch
from zsq.testing import tiny_run
from zsq.testing.world import make_teacher, plain_student
from zsq.types import Beat
from zsq_cli.app import main

PLUGIN = '''
import torch
from zsq import Component, hookimpl, Options, opt
from zsq.types import Batch, Beat, Cadence, Update
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class At(Options):
    step: int = opt(3, "Step that breaks.", ge=1)
    value: str = opt("nan", "What it breaks to.")


class Loss:
    def __init__(self, options, ctx):
        self.options, self.calls = options, 0

    def __call__(self, view):
        self.calls += 1
        value = view.student.output.square().mean()
        return value * float(self.options.value) if self.calls == self.options.step else value


class Synth:
    """Its generator's loss breaks, not the student's."""

    def __init__(self, options, ctx):
        self.options, self.ctx, self.steps = options, ctx, 0

    def sample(self, n):
        return Batch(torch.randn((n, *self.ctx.teacher.inputs.shape), generator=self.ctx.rng))

    def _terms(self):
        self.steps += 1
        return {"g_ce": torch.tensor(float(self.options.value if self.steps >= self.options.step else 1.0))}


class Alternating(Synth):
    cadence = Cadence()

    def update(self, probe):
        return Update(self.sample(4), None, self._terms())


class Staged(Synth):
    def prepare(self, probe):
        for step in range(5):
            yield Beat(step + 1, 5, self._terms())


class Range:
    """Gives every activation a range, and one of them a broken one; or, later, one that was good."""

    def __init__(self, options, ctx):
        self.options = options

    def fit(self, student, stream):
        for step, (path, point) in enumerate(student.acts.items()):
            point.set_range(-1.0, float(self.options.value) if step + 1 == self.options.step else 1.0)
        yield Beat(1, 1)


class Tune:
    """Breaks a weight, and says nothing of it in its metrics."""

    def __init__(self, options, ctx):
        self.options = options

    def fit(self, student, stream, objective):
        for step in range(3):
            if step + 1 == self.options.step:
                with torch.no_grad():
                    next(iter(student.module.parameters())).fill_(float(self.options.value))
            yield Beat(step + 1, 3, {"loss": torch.tensor(1.0)})


@hookimpl
def zsq_losses():
    yield Component("bad-loss", "breaks:Loss", At, summary="Breaks.", needs=frozenset({"student.output"}))


@hookimpl
def zsq_synthesizers():
    yield Component("bad-update", "breaks:Alternating", At, summary="Breaks.")
    yield Component("bad-prepare", "breaks:Staged", At, summary="Breaks.")


@hookimpl
def zsq_calibrators():
    yield Component("bad-range", "breaks:Range", At, summary="Breaks.")


@hookimpl
def zsq_tuners():
    yield Component("bad-tune", "breaks:Tune", At, summary="Breaks.")
'''


TINY = (
    "run", "py:zsq.testing.teachers:tiny", "--set", "teacher.shape=3,8,8", "--set", "teacher.mean=0,0,0", "--set", "teacher.std=1,1,1",
    "--set", "teacher.classes=4", "--quant", "uniform4", "--set", "run.batch_size=4", "--precision", "fp32",
)  # fmt: skip
MINMAX = ("--calib", "minmax", "--set", "calib.minmax.batches=2")
STEPS = ("--set", "tune.steps=5")

#: What breaks, the words that make it break, and what the message says of it.
BREAKS = {
    "a loss": ((*MINMAX, "--loss", "kd", "--loss", "bad-loss"), "the loss term 'bad-loss' became nan at step 3 of tune:finetune"),
    "a loss at once": (
        (*MINMAX, "--loss", "bad-loss", "--set", "loss.step=1"),
        "the loss term 'bad-loss' became nan at step 1 of tune:finetune",
    ),
    "an infinite loss": (
        (*MINMAX, "--loss", "bad-loss", "--set", "loss.value=inf"),
        "the loss term 'bad-loss' became infinite at step 3 of tune:finetune",
    ),
    "a generator while tuning": (
        (*MINMAX, "--synth", "bad-update", "--set", "synth.step=5"),
        "the loss term 'g_ce' became nan at step 3 of tune:finetune",
    ),
    "a generator while calibrating": (
        (*MINMAX, "--synth", "bad-update", "--set", "synth.step=2"),
        "the loss term 'g_ce' became nan at step 2 of calibrate:minmax",
    ),
    "staged images": ((*MINMAX, "--synth", "bad-prepare"), "the loss term 'g_ce' became nan at step 3 of prepare"),
    "a range that was good": (
        (*MINMAX, "--calib", "bad-range"),
        "became nan at step 1 of calibrate:bad-range",
    ),
    "a range that never was": (("--calib", "bad-range"), "became nan at step 1 of calibrate:bad-range"),
    "an infinite range": (("--calib", "bad-range", "--set", "calib.value=inf"), "became infinite at step 1 of calibrate:bad-range"),
    "a weight, and no metric": ((*MINMAX, "--tune", "bad-tune"), "the student's 'conv1.weight' became nan at step 3 of tune:bad-tune"),
}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plugin") / "breaks.py"
    file.write_text(PLUGIN)
    return file


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("what", BREAKS)
def test_it_stops_the_run_and_the_last_good_student_is_kept(what: str, plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = BREAKS[what]
    steps = () if "--tune" in words else STEPS
    assert main([*TINY, *steps, *words, "--plugin-file", str(plugin), "--out", "runs/r"]) == 2
    lines = capsys.readouterr().err[-600:].rpartition("zsq: ")[2].splitlines()
    assert expected in lines[0] and len(lines) == 3 and "runs/r.last-good" in lines[2]
    assert [path.name for path in Path("runs").iterdir()] == ["r.last-good"]
    student = zsq.load("runs/r.last-good")
    assert student(torch.randn((5, 3, 8, 8), generator=torch.Generator().manual_seed(0))).isfinite().all()
    report = json.loads(Path("runs/r.last-good/report.json").read_text())
    assert report["last_good"]["why"] == lines[0] and report["stopped"] is True


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("--precision", "fp32"), "try a lower learning rate (--set tune.lr=...); "),
        (("--precision", "bf16"), "try a lower learning rate (--set tune.lr=...) or --precision fp32; "),
        (("--synth", "bad-prepare"), "try other components than 'bad-prepare'"),
    ],
)
def test_the_message_says_what_to_try(words: tuple[str, ...], advice: str, plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, *STEPS, *MINMAX, "--loss", "bad-loss", *words, "--plugin-file", str(plugin)]) == 2
    assert advice in capsys.readouterr().err


def test_the_student_that_is_kept_is_the_one_before_the_phase_that_broke(plugin: Path) -> None:
    """A whole run without tuning ends where tuning would have begun."""
    assert main([*TINY, *STEPS, *MINMAX, "--loss", "bad-loss", "--plugin-file", str(plugin), "--out", "broken"]) == 2
    assert main([*TINY, *MINMAX, "--tune", "none", "--out", "whole"]) == 0
    assert Path("broken.last-good/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    kept = json.loads(Path("broken.last-good/report.json").read_text())["last_good"]
    assert (kept["phase"], kept["step"]) == ("calibrate:minmax", 2)


def test_the_kept_student_can_be_evaluated(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.savez("real.npz", images=rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8), labels=rng.integers(0, 4, 12))
    assert main([*TINY, *STEPS, *MINMAX, "--loss", "bad-loss", "--plugin-file", str(plugin), "--out", "r"]) == 2
    capsys.readouterr()
    assert main(["eval", "r.last-good", "--eval", "npz:real.npz"]) == 0
    assert "top1" in capsys.readouterr().out


def test_a_finished_run_is_never_touched(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("r", "r.last-good"):
        assert main([*TINY, *STEPS, *MINMAX, "--out", name]) == 0
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main([*TINY, *STEPS, *MINMAX, "--loss", "bad-loss", "--plugin-file", str(plugin), "--out", "r"]) == 2
    assert "is not kept: 'r.last-good' is a finished run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_the_next_checkpoint_replaces_the_one_before(plugin: Path) -> None:
    for step in (2, 4):
        words = ("--loss", "bad-loss", "--set", f"loss.step={step}", "--plugin-file", plugin, "--out", "r")
        assert main([*TINY, *STEPS, *MINMAX, *map(str, words)]) == 2
    assert "step 4" in json.loads(Path("r.last-good/report.json").read_text())["last_good"]["why"]


def test_without_a_folder_nothing_is_written_and_the_message_says_so(plugin: Path, here: Path) -> None:
    manager = Manager.discover(files=[plugin])
    with pytest.raises(NotFinite, match=r"without --out it is not kept"):
        tiny_run({"loss": ["bad-loss"]}, steps=4, manager=manager)
    assert not list(here.iterdir())


def test_a_full_disk_still_names_what_broke(plugin: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NotFinite, match=r"'bad-loss' became nan(.|\n)*not kept: cannot write(.|\n)*No space left"):
        tiny_run({"loss": ["bad-loss"]}, steps=4, manager=Manager.discover(files=[plugin]), folder=here / "r")
    assert not list(here.iterdir())


def test_the_copy_is_renewed_while_a_phase_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every copy due at once, the student that is kept is that of the step before the one that broke."""
    student = plain_student(make_teacher())
    good = LastGood(student)
    watch = Watch("tune:x", good)
    weight = next(student.module.parameters())
    for step in (1, 2):
        monkeypatch.setattr(good, "_next", 0.0)
        with torch.no_grad():
            weight.fill_(step)
        watch(Beat(step, 3, {"loss": torch.tensor(1.0)}), {})
    monkeypatch.setattr(good, "_next", 0.0)
    with torch.no_grad():
        weight.fill_(torch.nan)
    with pytest.raises(NotFinite, match=r"'conv1.weight' became nan at step 3 of tune:x"):
        watch(Beat(3, 3, {"loss": torch.tensor(1.0)}), {})
    assert (good.phase, good.step) == ("tune:x", 2)
    good.restore()
    assert (weight == 2).all()


def test_a_learned_range_that_breaks_is_put_back() -> None:
    result = tiny_run({"quant": "uniform4"})
    student = result.student
    good = LastGood(student)
    path, point = next(iter(student.acts.items()))
    before = tuple(end.clone() for end in point.range)
    with torch.no_grad():
        point.hi.fill_(torch.nan)
    with pytest.raises(NotFinite, match=f"the range of '{path}' became nan"):
        good.keep("tune:x", 7)
    good.restore()
    assert all(torch.equal(a, b) for a, b in zip(before, point.range, strict=True)) and point.ranged


@pytest.mark.parametrize("break_at", [1, 31, 33, 70])
def test_metrics_of_an_accelerator_are_read_late_and_name_the_right_step(break_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No accelerator is needed: a tensor that says it is on one, and counts how often it is read."""
    watch, read = Watch("tune:x"), []
    monkeypatch.setattr(stopping, "_on_device", lambda value: isinstance(value, torch.Tensor))
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda tensors: read.append(len(tensors)) or stack(tensors))
    with pytest.raises(NotFinite, match=rf"the loss term 'kd' became nan at step {break_at} of tune:x"):
        for step in range(1, 81):
            value = torch.tensor(torch.nan if step >= break_at else 1.0)
            watch(Beat(step, 80, {"loss": value, "kd": value}), {})
        watch.finish(80)
    assert len(read) <= 3 and sum(read) <= 160


def test_the_cost_of_copies_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that takes a second is not renewed for 100 seconds."""
    clock = iter([0.0, 1.0, 50.0, 102.0])
    monkeypatch.setattr(stopping.time, "monotonic", lambda: next(clock))
    good = LastGood(plain_student(make_teacher()))
    assert not good.due and good.due
