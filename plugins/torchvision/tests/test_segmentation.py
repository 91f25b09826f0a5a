"""Segmentation networks of torchvision, random weights: teacher, W8A8, saved, loaded, ONNX, and the same outputs in the runtime."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from zsq_segment import SegmentOptions
from zsq_segment.task import Segment
from zsq_torchvision import TorchvisionOptions
from zsq_torchvision.source import Torchvision

import zsq
from zsq.format import save
from zsq.options import Options, UniformOptions
from zsq.placement import Uniform
from zsq.testing import world
from zsq.testing.teachers import settled
from zsq.types import Teacher

CLASSES, SIZE = 5, 64


def teacher(torchvision: Any, name: str, folder: Path) -> Teacher:
    """Random weights, BatchNorm statistics of noise."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES)
    settled(network, torch.randn(4, 3, SIZE, SIZE))
    torch.save(network.state_dict(), folder / "own.pt")
    options = TorchvisionOptions(weights=str(folder / "own.pt"), classes=CLASSES, shape=(3, SIZE, SIZE))
    ctx = SimpleNamespace(trust_code=False, task=lambda classes: Segment(SegmentOptions(classes=classes)))
    return Torchvision(options, ctx).load(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_the_whole_way_to_the_runtime(torchvision: Any, name: str, tmp_path: Path) -> None:
    exporter = pytest.importorskip("zsq_onnx.exporter")
    of = teacher(torchvision, name, tmp_path)
    assert of.task.name == "segment" and of.task.classes == CLASSES and len(of.taps) >= 4
    made = Uniform(UniformOptions(scheme="deploy"), world.make_context(tmp_path)).quantize(of, None)
    minmax = world.make_component("calib", "minmax", world.make_context(tmp_path, teacher=of), batches=2)
    for _ in minmax.fit(made, world.make_stream(of, made)):
        pass
    made.freeze()
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    ctx = world.make_context(tmp_path, teacher=of)
    save(made, {}, tmp_path, of.inputs)
    loaded = zsq.load(tmp_path)
    with torch.no_grad():
        own, theirs, again = (of.task.logits(m(images)) for m in (made.module, of.module, loaded))
    assert torch.equal(own, again) and own.shape == (3, CLASSES, SIZE, SIZE)
    alike = torch.corrcoef(torch.stack([own.flatten(), theirs.flatten()]))[0, 1]
    assert alike > 0.7, "W8A8 is far from the teacher"
    assert any("interpolation" in row["reason"] for row in made.layers)
    onnx = exporter.Onnx(Options(), ctx)
    onnx.export(made, {}, tmp_path)
    found = onnx.verify(loaded, images, tmp_path)
    last = [point for point in made.acts.values() if point.bits >= 8][-1]
    assert found["max_abs_diff"] <= 1.01 * float(last.scale) and not found["floating"]
