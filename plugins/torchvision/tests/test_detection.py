"""Detectors of torchvision, random weights: decoded as torchvision does; teacher, W8A8, saved, loaded, ONNX, the runtime."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from zsq_detect import DetectOptions
from zsq_detect.task import Detect
from zsq_torchvision import TorchvisionOptions
from zsq_torchvision.source import Torchvision

import zsq
from zsq.format import save
from zsq.options import Options, UniformOptions
from zsq.placement import Uniform
from zsq.testing import world
from zsq.training import act_modules
from zsq.types import Student, Teacher

CLASSES, SIZE = 6, 64
NAMES = ("ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn")


def settled(torchvision: Any, name: str) -> Any:
    """torchvision's model with random weights, scores that differ, BatchNorm statistics of noise."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES)
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
        elif isinstance(module, torch.nn.Conv2d) and (path.startswith("head") or "fpn" in path):  # theirs are too small to say anything
            torch.nn.init.kaiming_normal_(module.weight)
    with torch.no_grad():
        model.train().backbone(torch.randn(4, 3, SIZE, SIZE))
        model.head(list(model.backbone(torch.randn(4, 3, SIZE, SIZE)).values()))
    return model.eval()


def load(model: Any, name: str, folder: Path) -> Teacher:
    torch.save(model.state_dict(), folder / "own.pt")
    options = TorchvisionOptions(weights=str(folder / "own.pt"), classes=CLASSES, shape=(3, SIZE, SIZE))
    ctx = SimpleNamespace(trust_code=False, task=lambda classes: Detect(DetectOptions(classes=classes)))
    return Torchvision(options, ctx).load(name)  # type: ignore[arg-type]


def student(of: Teacher, folder: Path) -> Student:
    made = Uniform(UniformOptions(scheme="deploy"), world.make_context(folder)).quantize(of, None)
    minmax = world.make_component("calib", "minmax", world.make_context(folder, teacher=of), batches=1)
    for _ in minmax.fit(made, world.make_stream(of, made)):
        pass
    made.freeze()
    return made


def check_boxes(model: Any, of: Teacher, images: Tensor) -> None:
    """What the model itself finds is what the decoding finds, in order of score."""
    from torchvision.models.detection.image_list import ImageList
    from torchvision.ops import boxes as operations

    with torch.no_grad():
        output = of.module(images)
        (anchors,) = model.anchor_generator(ImageList(images, [(SIZE, SIZE)]), list(model.backbone(images).values()))
    decoding: Any = of.module.decoding
    theirs = operations.clip_boxes_to_image(model.box_coder.decode_single(output[1][0], anchors), (SIZE, SIZE))
    found = decoding(output, (SIZE, SIZE))[0]
    chances = output[0][0].softmax(1)[:, 1:] if decoding.background else output[0][0].sigmoid()
    assert len(found.boxes) > 3 and (found.scores.diff() <= 0).all()
    best = chances.flatten().argmax()
    assert torch.allclose(found.boxes[0], theirs[best // chances.shape[1]], atol=1e-3) and found.scores[0] == chances.flatten()[best]
    for box, score, label in zip(found.boxes, found.scores, found.classes, strict=True):
        assert (torch.isclose(theirs, box, atol=1e-3).all(1) & torch.isclose(chances[:, label], score)).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_way_to_the_runtime(torchvision: Any, name: str, tmp_path: Path) -> None:
    exporter, runtime = (pytest.importorskip(f"zsq_onnx.{name}") for name in ("exporter", "runtime"))
    model = settled(torchvision, name)
    of = load(model, name, tmp_path)
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    assert of.task.name == "detect" and of.task.classes == CLASSES and len(of.taps) >= 5
    check_boxes(model, of, images[:1])
    made = student(of, tmp_path)
    ctx = world.make_context(tmp_path, teacher=of)
    save(made, {}, tmp_path, of.inputs)
    loaded = zsq.load(tmp_path)
    with torch.no_grad():
        own, theirs, again = (of.task.values(m(images)) for m in (made.module, of.module, loaded))
    for ours, teachers, saved in zip(own, theirs, again, strict=True):
        assert torch.equal(ours, saved)
        alike = torch.corrcoef(torch.stack([ours.flatten(), teachers.flatten()]))[0, 1]
        assert alike > 0.9, "W8A8 is far from the teacher"
    onnx = exporter.Onnx(Options(), ctx)
    onnx.export(made, {}, tmp_path)
    found = onnx.verify(loaded, images, tmp_path)
    convolutions = [row["path"] for row in made.layers if row["type"] == "Conv2d"]
    assert not found["floating"] and len(found["integer"]) >= len(convolutions) > 50, "a convolution is calculated in float"
    reader = runtime.OnnxRuntime()
    given = reader.session(reader.read(tmp_path))(images.numpy())
    with torch.no_grad():
        simulated = loaded(images)
    for ours, theirs, step in zip(simulated, given, steps(made, images), strict=True):
        assert (len(step.unique()) > 4) and ((ours - torch.from_numpy(theirs)).abs() <= 1.001 * step).all()


def steps(made: Student, images: Tensor) -> tuple[Tensor, ...]:
    """One quantization step for every number that the student gives out: that of the point which the number came through last."""
    hooks = [p.register_forward_hook(lambda p, _, out: torch.full_like(out, float(p.scale))) for p in act_modules(made).values()]
    with torch.no_grad():
        scores, offsets = made.module(images)
    for hook in hooks:
        hook.remove()
    return scores, offsets


def test_without_the_task_the_package_is_named(torchvision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "own.pt")
    monkeypatch.setitem(sys.modules, "zsq_detect.boxes", None)
    options = TorchvisionOptions(weights=str(tmp_path / "own.pt"), shape=(3, SIZE, SIZE))
    with pytest.raises(zsq.ZsqError) as error:
        Torchvision(options, SimpleNamespace(trust_code=False, task=None)).load(NAMES[0])  # type: ignore[arg-type]
    assert "zsq-torchvision[detect]" in error.value.hint
