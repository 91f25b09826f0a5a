"""Files the user brings that cannot be used: one message of at most three lines, exit code 2, nothing left behind, nothing run."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zsq.format import text_of
from zsq.testing.teachers import tiny

SPEC = (
    "--set", "teacher.shape=3,8,8", "--set", "teacher.mean=0,0,0", "--set", "teacher.std=1,1,1", "--set", "teacher.classes=4",
    "--set", "tune.steps=1", "--calib", "minmax", "--out", "run",
)  # fmt: skip
TINY = ("run", "py:zsq.testing.teachers:tiny", *SPEC)


class Bomb:
    """Leaves a file behind when its pickle is run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    state = tiny().state_dict()
    save_file({**state, "linear.weight": torch.zeros(4, 9)}, tmp_path / "wide.safetensors")
    save_file({k: v for k, v in state.items() if k != "conv1.weight"}, tmp_path / "lacking.safetensors")
    (tmp_path / "corrupt.safetensors").write_bytes(b"\x99" * 64)
    with (tmp_path / "bomb.pth").open("wb") as file:
        pickle.dump({"state_dict": Bomb()}, file)
    torch.save({"state_dict": Bomb()}, tmp_path / "zipped_bomb.pth")
    images = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "small.npz", images=np.zeros((4, 7, 8, 3), np.uint8), labels=np.zeros(4, np.int64))
    np.savez(tmp_path / "labels.npz", images=images, labels=np.array([0, 1, 2, 4]))
    np.savez(tmp_path / "count.npz", images=images, labels=np.zeros(3, np.int64))
    (tmp_path / "corrupt.npz").write_bytes(b"PK\x03\x04nothing")
    return tmp_path


CASES = {
    "missing weights": (("--weights", "corupt.safetensors"), "did you mean"),
    "corrupt weights": (("--weights", "corrupt.safetensors"), "corrupt.safetensors"),
    "weights of another shape": (("--weights", "wide.safetensors"), "linear.weight"),
    "weights that lack a tensor": (("--weights", "lacking.safetensors"), "conv1.weight"),
    "a pickle that carries code": (("--weights", "bomb.pth"), "code"),
    "a zipped pickle that carries code": (("--weights", "zipped_bomb.pth"), "code"),
    "images of another shape": (("--eval", "npz:small.npz"), "7, 8, 3"),
    "labels out of range": (("--eval", "npz:labels.npz"), "4"),
    "fewer labels than images": (("--eval", "npz:count.npz"), "labels"),
    "corrupt images": (("--eval", "npz:corrupt.npz"), "corrupt.npz"),
    "missing images": (("--eval", "npz:smal.npz"), "small.npz"),
    "a folder taken for a file": (("--eval", "folder:small.npz"), "small.npz"),
}


def refused(done: Any, folder: Path, before: list[Path], expected: str) -> None:
    message = done.err[done.err.index("zsq: ") :]
    assert done.code == 2, done.err
    assert expected in message and len(message.splitlines()) <= 3, message
    assert "Traceback" not in done.err and not done.out
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_cannot_be_used(case: str, zsq: Any, files: Path) -> None:
    words, expected = CASES[case]
    before = sorted(files.rglob("*"))
    refused(zsq(*TINY, *words), files, before, expected)


def test_a_teacher_without_batch_norm_where_it_is_needed(zsq: Any, tmp_path: Path) -> None:
    refused(zsq("run", "py:zsq.testing.teachers:Plain", *SPEC, "--synth", "qimera"), tmp_path, [], "teacher.bn")


def test_a_damaged_student(zsq: Any, files: Path) -> None:
    assert zsq(*TINY).code == 0
    run = files / "run"
    weights, config = run / "model.safetensors", json.loads((run / "config.json").read_text())
    content, text = weights.read_bytes(), (run / "config.json").read_bytes()

    def check(expected: str) -> None:
        before = sorted(files.rglob("*"))
        refused(zsq("eval", "run", "--eval", "npz:small.npz"), files, before, expected)
        weights.unlink()
        weights.write_bytes(content)
        (run / "config.json").write_bytes(text)

    weights.write_bytes(content[:-1] + b"?")
    check("model.safetensors is not the file")
    (run / "config.json").write_bytes(text[:-20])
    check("config.json is not the configuration")
    (run / "config.json").write_bytes(text_of({**config, "format": 99}))
    check("saved in format 99")
    weights.unlink()
    weights.symlink_to(files / "corrupt.safetensors")
    check("model.safetensors is a link to a file outside the folder")


def test_a_full_disk_while_saving(zsq: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(zsq(*TINY), tmp_path, [], "No space left")
