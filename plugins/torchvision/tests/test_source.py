"""The source ``torchvision``: names, versions of weights, torch's cache, checkpoints of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from zsq_torchvision import TorchvisionOptions
from zsq_torchvision.source import Torchvision

from zsq.errors import ComponentError, FileError, ZsqError
from zsq.types import Teacher


def load(ref: str, **options: Any) -> Teacher:
    return Torchvision(TorchvisionOptions(**options), SimpleNamespace(trust_code=False, task=None)).load(ref)  # type: ignore[arg-type]


def test_published_weights_come_from_torchs_cache(torchvision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    network = torchvision.models.squeezenet1_1(weights=None).eval()
    file = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    teacher = load("squeezenet1_1")
    assert teacher.ref == "torchvision:squeezenet1_1@IMAGENET1K_V1" and teacher.inputs.shape == (3, 224, 224)
    assert teacher.inputs.mean == (0.485, 0.456, 0.406) and teacher.labels[0] == "tench" and teacher.task.classes == 1000
    images = torch.randn(1, 3, 64, 64)
    assert torch.allclose(teacher.module(images), network(images), atol=1e-4)


def test_a_download_is_checked_and_leaves_nothing_half_done(torchvision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def broken(url: str, file: str, sign: str | None, progress: bool) -> None:
        assert url.endswith(f"-{sign}.pth")
        raise RuntimeError("invalid hash value")

    monkeypatch.setattr(torch.hub, "download_url_to_file", broken)
    with pytest.raises(FileError, match="its hash is another"):
        load("squeezenet1_1")

    def unreachable(*arguments: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(FileError, match="cannot download"):
        load("squeezenet1_1")
    assert not list(tmp_path.rglob("*.pth"))


def test_a_checkpoint_of_ones_own(torchvision: Any, tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1(weights=None, num_classes=7).state_dict(), tmp_path / "own.pt")
    teacher = load("squeezenet1_1", weights=str(tmp_path / "own.pt"), classes=7, shape=(3, 64, 64))
    assert teacher.task.classes == 7 and not teacher.labels and teacher.inputs.shape == (3, 64, 64)
    assert teacher.ref == "torchvision:squeezenet1_1"


@pytest.mark.parametrize(
    ("ref", "what", "hint"),
    [
        ("resnet81", "no network 'resnet81'", "resnet18"),
        ("fasterrcnn_resnet50_fpn", "no network", ""),
        ("resnet50@IMAGENET1K_V3", "no weights", "IMAGENET1K_V"),
    ],
)
def test_a_name_that_is_none(torchvision: Any, ref: str, what: str, hint: str) -> None:
    with pytest.raises(ZsqError, match=what) as error:
        load(ref)
    assert hint in error.value.hint


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ComponentError, match="'torchvision' is not installed") as error:
        load("resnet18")
    assert error.value.hint == "pip install 'zsq-torchvision[torchvision]'"
