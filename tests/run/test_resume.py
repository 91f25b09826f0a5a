"""Runs that go on, whatever they are made of: other chains, components that keep no state, graphs that were changed, other teachers."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from resuming import PLAIN, TUNE, die, forked, go_on, interrupt, same, start, tuning_at

from zsq import events
from zsq._manager import Manager
from zsq._run.checkpoints import read
from zsq._run.stopping import Interrupted
from zsq.errors import FileError, ZsqError

CHAINS: dict[str, dict[str, Any]] = {
    "lrq and ait": {"synth": {"name": "lrq", "train_data": "both"}, "calib": ["minmax"], "tune": {"name": "ait", "steps": 4}},
    "a spectrum on a plateau, deploy": {
        "synth": {"name": "zeroq-spectrum", "schedule": "plateau"},
        "quant": {"name": "squant4", "scheme": "deploy"},
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
@pytest.mark.parametrize("name", CHAINS)
def test_other_chains_go_on(name: str, tmp_path: Path) -> None:
    seen: list[events.Event] = []
    start(CHAINS[name], tmp_path / "whole", listeners=[seen.append])
    steps = [number for number, event in enumerate(seen) if isinstance(event, events.Stepped)]
    number = random.Random(name).choice(steps[len(steps) // 2 :])

    def stop(_event: events.Event, left: Iterator[int] = iter(range(number))) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"zsq run --resume .*cut"):
        start(CHAINS[name], tmp_path / "cut", listeners=[stop])
    go_on(tmp_path / "cut")
    assert same(tmp_path / "cut", tmp_path / "whole"), seen[number]


STATELESS = """
from zsq import Component, Options, hookimpl
from zsq._builtin.finetune import Finetune
from zsq.testing.world import AlternatingNoise
from zsq.types import Update


class Generator(AlternatingNoise):
    def __init__(self, options, ctx):
        super().__init__(ctx.teacher)


class Tuner:
    def __init__(self, options, ctx):
        from zsq._builtin.options import FinetuneOptions
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
        ({**PLAIN, "tune": "no-state-tuner"}, "resuming at the beginning of tune:no-state-tuner"),
        ({**PLAIN, "synth": "no-state"}, "resuming at the beginning of the run"),
    ],
    ids=["tuner", "synthesizer"],
)
def test_components_without_state_begin_again(chain: dict[str, Any], at: str, tmp_path: Path) -> None:
    file = tmp_path / f"keeps_{len(at)}.py"
    file.write_text(STATELESS)
    manager = Manager.discover(files=[file])
    start(chain, tmp_path / "whole", manager=manager)
    assert forked(lambda: start(chain, tmp_path / "cut", manager=manager, listeners=[tuning_at(3, die)])) == -signal.SIGKILL
    assert go_on(tmp_path / "cut", manager) == [at] and same(tmp_path / "cut", tmp_path / "whole")


def test_a_calibrator_that_changed_the_graph_is_repeated(tmp_path: Path) -> None:
    """``cle`` gives a bounded ReLU one bound per channel: the student that is quantized again has no such operation yet."""
    (tmp_path / "net.py").write_text(CAPPED)
    teacher = {"ref": f"py:{tmp_path / 'net.py'}:build", "shape": [3, 8, 8], "mean": [0.0] * 3, "std": [1.0] * 3, "classes": 4}
    chain = {**PLAIN, "teacher": teacher, "calib": ["cle", "minmax"], "quant": {"name": "uniform4", "scheme": "deploy"}}
    start(chain, tmp_path / "whole")
    with pytest.raises(Interrupted):
        start(chain, tmp_path / "cut", listeners=[tuning_at(3, interrupt)])
    assert read(tmp_path / "cut")["changed"] == [1]
    go_on(tmp_path / "cut")
    assert same(tmp_path / "cut", tmp_path / "whole")


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from zsq.testing.teachers import tiny as build\n")
    teacher = {"ref": f"py:{file}:build", "shape": [3, 8, 8], "mean": [0.0] * 3, "std": [1.0] * 3, "classes": 4}
    with pytest.raises(Interrupted):
        start({**PLAIN, "teacher": teacher}, tmp_path / "cut", listeners=[tuning_at(1, interrupt)])
    file.write_text("from zsq.testing.teachers import tiny\n\ndef build():\n    net = tiny()\n    net.linear.bias += 1\n    return net\n")
    with pytest.raises(ZsqError, match="the teacher differs from"):
        go_on(tmp_path / "cut")


@pytest.mark.fault("two processes make the same run", "the second is refused")
def test_one_process_at_a_time(tmp_path: Path) -> None:
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(FileError) as error:
            go_on(tmp_path / "run")
        refused.append(str(error.value))

    start(PLAIN, tmp_path / "run", listeners=[tuning_at(1, second)])
    assert len(refused) == 1 and "another process is making this run" in refused[0]
