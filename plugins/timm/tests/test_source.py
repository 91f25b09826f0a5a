"""The source ``timm``: names, tags, checkpoints of one's own. What comes from the Hub is tested with zsq-hub."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from zsq_timm import TimmOptions
from zsq_timm.source import Timm

from zsq.errors import ComponentError, FileError, ZsqError
from zsq.types import Teacher


def load(ref: str, **options: Any) -> Teacher:
    return Timm(TimmOptions(**options), SimpleNamespace(trust_code=False, task=None)).load(ref)  # type: ignore[arg-type]


def test_a_checkpoint_of_ones_own(timm: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=7).eval()
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    teacher = load("resnet10t", weights=str(tmp_path / "own.safetensors"), classes=7)
    assert teacher.task.classes == 7 and teacher.inputs.shape == tuple(network.pretrained_cfg["input_size"])
    assert teacher.inputs.mean == tuple(network.pretrained_cfg["mean"])
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(teacher.module(images), network(images), atol=1e-4)
    with pytest.raises(FileError, match="has shape"):
        load("resnet10t", weights=str(tmp_path / "own.safetensors"), classes=8)


@pytest.mark.parametrize(
    ("ref", "what", "hint"),
    [
        ("resnet81", "timm has no 'resnet81'", "resnet18"),
        ("resnet18.b9", "timm has no 'resnet18.b9'", "resnet18.a1_in1k"),
        ("regnetz_005", "architecture without weights", "--weights"),
    ],
)
def test_a_name_that_is_none(timm: Any, ref: str, what: str, hint: str) -> None:
    with pytest.raises(ZsqError, match=what) as error:
        load(ref)
    assert hint in error.value.hint


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ComponentError, match="'timm' is not installed") as error:
        load("resnet18")
    assert error.value.hint == "pip install 'zsq-timm[timm]'"
