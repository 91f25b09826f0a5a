"""A run of a network in memory that is killed goes on in another process, with the network given again, to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import zsq
from zsq import events

#: A program as somebody has it: the network, and one call. Its arguments: folder, step to die at (0: never), whether to go on.
PROGRAM = """
import os, signal, sys
import torch, zsq
from torch import nn
from zsq import events
from zsq.types import Batch

out, step, resume = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "resume"
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

def loss(view):
    return (view.student.output - view.teacher.output).square().mean()

def die(event):
    if isinstance(event, events.Stepped) and event.phase.startswith("tune") and event.step == step:
        os.kill(os.getpid(), signal.SIGKILL)

own = torch.randn((16, 3, 8, 8), generator=torch.Generator().manual_seed(3))
spec = {} if resume else {"input_shape": (3, 8, 8), "mean": 0.5, "std": 0.25, "bits": 4, "calib": ("minmax", {"batches": 2}),
                          "tune": ("finetune", {"steps": 6}), "batch_size": 4, "settings": {"run.checkpoint": 0}}
result = zsq.quantize(net, synth=own, loss=loss, out=out, resume=resume, cache=False, quiet=True, on_event=die, **spec)
print(result.recipe.run)
"""


def program(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, cwd=folder, env=env, check=False)


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = program(tmp_path, "whole", "0", "again")
    assert whole.returncode == 0, whole.stderr
    assert program(tmp_path, "cut", "4", "again").returncode == -signal.SIGKILL
    assert not (tmp_path / "cut").exists() and (tmp_path / "cut.checkpoint").is_dir()
    again = program(tmp_path, "cut", "0", "resume")
    assert again.returncode == 0, again.stderr
    for name in ("model.safetensors", "config.json", "recipe.yaml"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (tmp_path / "cut.checkpoint").exists()


def test_another_network_or_a_missing_object_is_refused(net: nn.Module, tmp_path: Path) -> None:
    assert program(tmp_path, "cut", "2", "again").returncode == -signal.SIGKILL
    with pytest.raises(zsq.ZsqError, match="'images' was an object in memory"):
        zsq.quantize(net, out=tmp_path / "cut", resume=True, quiet=True)
    import torch

    own = torch.randn((16, 3, 8, 8), generator=torch.Generator().manual_seed(3))
    with pytest.raises(zsq.ZsqError, match="'loss' was an object in memory"):
        zsq.quantize(net, synth=own, out=tmp_path / "cut", resume=True, quiet=True)

    def loss(view: object) -> object:
        return view

    with pytest.raises(zsq.ZsqError, match="has other weights"):
        zsq.quantize(net, synth=own, loss=loss, out=tmp_path / "cut", resume=True, quiet=True)
    assert (tmp_path / "cut.checkpoint").is_dir(), "a mistake must not cost the checkpoint"


def test_ctrl_c_says_how_to_go_on(net: nn.Module, tmp_path: Path) -> None:
    def stop(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.phase.startswith("tune") and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    how: dict[str, Any] = {"bits": 8, "input_shape": (3, 8, 8), "mean": 0, "std": 1, "batch_size": 8, "cache": False, "quiet": True,
                           "tune": ("finetune", {"steps": 6}), "calib": ("minmax", {"batches": 2}), "on_event": stop}  # fmt: skip
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(zsq.ZsqError, match="stopped at step 2") as caught:
        zsq.quantize(net, out=tmp_path / "run", **how)
    assert "zsq.quantize(network, out=" in caught.value.hint and "resume=True" in caught.value.hint
    result = zsq.quantize(net, out=tmp_path / "run", resume=True, cache=False, quiet=True)
    assert result.report["steps"] == 6 and signal.getsignal(signal.SIGINT) is before
    with pytest.raises(zsq.ZsqError, match="stopped at step 2") as caught:
        zsq.quantize(net, **how)
    assert "without out= nothing of it is kept" in caught.value.hint
