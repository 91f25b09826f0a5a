"""What ends a run early: Ctrl-C, a budget, memory that runs out; and what it says then."""

from __future__ import annotations

import resource
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from resuming import forked

from zsq._run import checkpoints as module
from zsq._run.checkpoints import CheckpointFolder, found
from zsq._run.stopping import Budget
from zsq.testing._chains import tiny_run
from zsq_cli.app import main

TINY = ("run", "py:zsq.testing.teachers:tiny", "--set", "teacher.shape=3,8,8", "--set", "teacher.mean=0,0,0", "--set",
        "teacher.std=1,1,1", "--set", "teacher.classes=4", "--synth", "noise", "--quant", "uniform4", "--calib", "minmax",
        "--set", "run.batch_size=4", "--set", "run.precision=fp32")  # fmt: skip
TUNED = (*TINY, "--loss", "kd", "--tune", "finetune", "--set", "tune.steps=6", "--set", "tune.lr=0.01")

#: Presses Ctrl-C at steps of a phase, given by the environment.
PRESSES = """
import os, signal
from zsq import hookimpl

@hookimpl
def zsq_event(event):
    if type(event).__name__ == "Stepped" and f"{event.phase} {event.step}" in os.environ["PRESS"].split(","):
        for _ in range(int(os.environ.get("TIMES", 1))):
            os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def presses(here: Path, request: pytest.FixtureRequest) -> tuple[str, str]:
    file = here / f"presses_{abs(hash(request.node.name))}.py"
    file.write_text(PRESSES)
    return "--plugin-file", str(file)


@pytest.mark.fault(
    "Ctrl-C once", "the step is finished and written down, exit code 130 and the command that goes on; the same bytes in the end"
)
def test_ctrl_c_finishes_the_step_and_says_how_to_go_on(
    presses: tuple[str, str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESS", "tune:finetune 3")
    before = signal.getsignal(signal.SIGINT)
    assert main([*TUNED, "--out", "whole"]) == 0
    assert main([*TUNED, *presses, "--out", "runs/cut"]) == 130
    lines = capfd.readouterr().err.splitlines()
    assert "zsq: finishing this step; press Ctrl-C again to stop now" in lines
    assert lines[-2] == "zsq: stopped at step 3 of tune:finetune"
    assert lines[-1] == f"`zsq run --resume runs/cut {' '.join(presses)}` resumes it"
    assert signal.getsignal(signal.SIGINT) is before and not Path("runs/cut").exists()
    assert main(["run", "--resume", "runs/cut"]) == 0
    assert "resuming at step 3 of tune:finetune" in capfd.readouterr().err
    assert Path("runs/cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert [path.name for path in Path("runs").iterdir()] == ["cut"]


@pytest.mark.fault("Ctrl-C twice", "the run is left at once; it goes on from its last checkpoint")
def test_ctrl_c_twice_leaves_now(presses: tuple[str, str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESS", "tune:finetune 3")
    monkeypatch.setenv("TIMES", "2")
    assert main([*TUNED, "--out", "whole"]) == 0
    assert main([*TUNED, *presses, "--set", "run.checkpoint=0", "--out", "cut"]) == 130
    assert capfd.readouterr().err.splitlines()[-1].startswith("`zsq run --resume cut ")
    assert main(["run", "--resume", "cut"]) == 0
    assert "resuming at step 2 of tune:finetune" in capfd.readouterr().err
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_ctrl_c_in_a_component_without_state_says_that_it_begins_again(
    presses: tuple[str, str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESS", "calibrate:minmax 1")
    words = [*TUNED[:-4], "--calib", "minmax", "--set", "run.checkpoint=0", *presses]
    assert main([*words, "--out", "cut"]) == 130
    assert "interrupted" in capfd.readouterr().err and not Path("cut.checkpoint").exists()  # nothing was done yet


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--synth", "noise"), "--synth"),
        (("--out", "x"), "--out"),
        (("--seed", "0"), "--seed"),
        (("some:teacher",), "TEACHER"),
        (("--set", "tune.steps=3"), "--set"),
    ],
)
def test_what_a_run_is_made_of_is_not_said_anew(words: tuple[str, ...], expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--resume", "r", *words]) == 2
    error = capfd.readouterr().err
    assert "uses the settings of the run" in error and f"in {expected}" in error


def test_where_there_is_nothing_to_go_on_with(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--resume", "nowhere"]) == 2
    assert "no checkpoint to resume from" in capfd.readouterr().err
    assert main([*TINY, "--tune", "none", "--out", "done"]) == 0
    assert main(["run", "--resume", "done"]) == 2
    assert "'done' is finished" in capfd.readouterr().err


def test_an_unfinished_run_that_is_replaced_is_named(
    presses: tuple[str, str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    monkeypatch.setenv("PRESS", "tune:finetune 3")
    assert main([*TUNED, *presses, "--out", "cut"]) == 130
    capfd.readouterr()
    assert main([*TUNED, "--out", "cut"]) == 0
    assert "`zsq run --resume cut` would have resumed it" in capfd.readouterr().err
    assert sorted(p.name for p in here.iterdir() if "cut" in p.name) == ["cut"]


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("memory runs out", "one message that names the batch size to try")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--set", "run.batch_size=1000000"), "try --set run.batch_size=500000"),
        (("--synth", "zeroq", "--set", "synth.images=600000", "--set", "synth.batch=600000"), "try --set synth.batch=300000"),
        (("--calib", "aac", "--set", "calib.aac.images=600000", "--set", "calib.aac.batch=600000"), "try --set calib.aac.batch=300000"),
    ],
)
def test_out_of_memory_names_the_batch_size_to_try(words: tuple[str, ...], expected: str, here: Path) -> None:
    """In a process of its own that may have 400 MiB more than this one."""

    def starve() -> int:
        sys.stderr = Path("said").open("w", buffering=1)  # noqa: SIM115  # until the process ends
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 400 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return main([*TUNED, *words, "--out", "r"])

    assert forked(starve) == 2
    lines = Path("said").read_text().rpartition("zsq: ")[2].splitlines()
    assert "out of memory, with batches of" in lines[0] and lines[-1].startswith(expected) and len(lines) == 3


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_a_schedule_follows_the_time_that_is_left() -> None:
    """100 steps of a second each in 50 seconds: the estimate comes after 5, and the schedule then ends with the time."""
    clock = [0.0]
    budget = Budget(50.0 / 0.9, lambda: clock[0])
    budget.begin("tune:any")
    shares = []
    for step in range(50):
        clock[0] = float(step)
        shares.append(budget(step, 100) / 100)
    assert shares[:5] == [0.0, 0.01, 0.02, 0.03, 0.04] and shares == sorted(shares) and shares[-1] > 0.97
    clock[0] = 50.0
    assert budget(50, 100) == 100 and budget.over


@pytest.mark.parametrize("limit", [None, 101.0, 1000.0])
def test_a_budget_that_suffices_changes_no_schedule(limit: float | None) -> None:
    clock = [0.0]
    budget = Budget(limit and limit / 0.9, lambda: clock[0])
    budget.begin("tune:any")
    for step in range(100):
        clock[0] = float(step)
        assert budget(step, 100) == step
    assert budget.rescaled is None


def test_a_run_within_its_budget_has_the_bits_of_one_without(here: Path) -> None:
    for name, run in (("with", {"budget": "1h"}), ("without", {})):
        tiny_run({"run": run}, folder=here / name)
    assert (here / "with/model.safetensors").read_bytes() == (here / "without/model.safetensors").read_bytes()


def test_a_learning_rate_reaches_its_end_under_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """In seconds of this process: the machine may have much else to do."""
    monkeypatch.setattr("zsq._run.state.time", SimpleNamespace(monotonic=time.process_time))
    rates: list[float] = []
    monkeypatch.setattr("zsq._builtin.finetune.cosine", lambda step, steps: rates.append(step / steps) or 0.0)
    report = tiny_run({"synth": "noise", "tune": {"name": "finetune", "steps": 100_000}, "run": {"budget": "2"}}).report
    assert report["stopped"] and 10 < report["steps"] < 100_000
    assert report["phases"][-2] == {**report["phases"][-2], "name": "tune:finetune", "steps": report["steps"], "total": 100_000}
    assert rates[-1] > 0.9


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_checkpoints_take_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    """One that takes a second is not followed by another for 100, however short the interval."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])

    def slow(*_: object) -> None:
        clock[0] += 1.0

    monkeypatch.setattr(module, "write_atomic", slow)
    checkpoints = CheckpointFolder(here / "r.checkpoint", 10.0, print)
    assert checkpoints.due() and checkpoints.write({})
    for second, due in ((50.0, False), (100.9, False), (101.0, True)):
        clock[0] = second
        assert checkpoints.due() is due and checkpoints.due(phase=True) is due
    assert not found(here / "r.checkpoint")


def test_a_run_that_is_not_written_keeps_none(here: Path) -> None:
    tiny_run({})
    assert not list(here.iterdir())
