"""The source ``zoo``: names, errors, and the embedded teacher with its images."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from zsq_zoo import ZooOptions, resnet
from zsq_zoo.source import ARCHITECTURES, ASSETS, EMBEDDED, LABELS, Zoo

from zsq.errors import FileError, OptionError, ZsqError
from zsq.testing import conformance
from zsq.testing.world import make_component
from zsq.types import Teacher

SHARED = Path(__file__).resolve().parents[4] / "shared"

test_zoo = conformance("zoo", ref=EMBEDDED)


def load(ref: str, **options: Any) -> Teacher:
    return Zoo(ZooOptions(**options), SimpleNamespace(trust_code=False, task=None)).load(ref)  # type: ignore[arg-type]


def top1(teacher: Teacher, path: str) -> dict[str, float]:
    ctx: Any = SimpleNamespace(teacher=teacher, device=torch.device("cpu"))
    return make_component("eval", "npz", ctx, ref=path).evaluate(teacher.module, ctx)


@pytest.mark.accuracy
def test_embedded_teacher_is_as_good_as_its_sidecar_says() -> None:
    teacher = load(EMBEDDED)
    name, _, path = teacher.evaluation.partition(":")
    claimed = json.loads((ASSETS / f"{EMBEDDED}.json").read_text())["top1"]
    metrics = top1(teacher, path)
    assert name == "npz" and metrics["images"] == 2000
    assert metrics["top1"] == pytest.approx(claimed["eval_2000"], abs=0.11)  # two images may tip with another machine's arithmetic
    assert claimed["test_10000"] >= 91.5
    assert teacher.labels == LABELS and teacher.head == "linear" and teacher.taps == ("layer1", "layer2", "layer3")


def test_evaluation_images_hold_200_of_each_class_in_full_range() -> None:
    with np.load(ASSETS / "cifar10-eval-2k.npz") as stored:
        images, labels = stored["images"], stored["labels"]
    assert np.bincount(labels).tolist() == [200] * 10
    assert images.shape == (2000, 32, 32, 3) and images.dtype == np.uint8 and images.min() == 0 and images.max() == 255
    assert len(np.unique(images.reshape(2000, -1), axis=0)) == 2000


@pytest.mark.accuracy
def test_public_checkpoint() -> None:
    weights, images = SHARED / "teachers/resnet20-cifar10.safetensors", SHARED / "data/cifar10-test-5k.npz"
    if not weights.is_file() or not images.is_file():
        pytest.skip("../shared with the public teacher is absent")
    assert top1(load("resnet20", weights=str(weights)), str(images)) == {"top1": pytest.approx(91.48), "images": 5000}


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name.startswith("resnet")])
def test_architecture_with_weights(tmp_path: Path, name: str) -> None:
    network = getattr(resnet, name)(7)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    teacher = load(name, weights=str(tmp_path / "w.safetensors"), classes=7, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert teacher.ref == f"zoo:{name}" and teacher.task.classes == 7 and teacher.inputs.shape == (3, 32, 32)
    assert teacher.inputs.std == (0.2, 0.2, 0.2) and teacher.evaluation == ""
    assert all(torch.equal(value, teacher.module.state_dict()[key]) for key, value in network.state_dict().items())


def test_errors_name_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ZsqError, match="resnet20-cifar") as unknown:
        load("resnet20-cifar")
    assert "did you mean 'resnet20-cifar10'?" in str(unknown.value)
    with pytest.raises(ZsqError, match="--weights FILE"):
        load("resnet56")
    with pytest.raises(OptionError, match="'classes' has no effect"):
        load(EMBEDDED, classes=10)
    save_file(resnet.resnet20().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(FileError, match="no mean, no std"):
        load("resnet20", weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(FileError, match="missing"):
        load("resnet32", weights=str(tmp_path / "w.safetensors"))
