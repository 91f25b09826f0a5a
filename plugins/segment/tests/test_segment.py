"""The task ``segment`` and its evaluator, and whole chains on a small network that gives a class for every pixel."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from zsq_segment import SegmentationOptions, SegmentOptions
from zsq_segment.evaluator import Segmentation, confusion, intersection_over_union
from zsq_segment.task import Segment

from zsq import Recipe
from zsq.errors import FileError, PlanError, ZsqError
from zsq.testing import conformance, world
from zsq.testing.world import Manager, compose, run
from zsq.types import InputSpec, Teacher

test_segment = conformance("segment")

CLASSES, SHAPE = 4, (3, 16, 24)
NETWORK = """
import torch
from torch import nn

from zsq.testing.teachers import settled


class Net(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.classifier = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        x = self.down(x)
        y = nn.functional.interpolate(self.deep(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return {"out": nn.functional.interpolate(self.classifier(nn.functional.relu6(x + y)), (16, 24), mode="bilinear")}


def net(classes=4):
    return settled(Net(classes), torch.randn(32, 3, 16, 24))
"""


def recipe(folder: Path, **sections: Any) -> Recipe:
    (folder / "seg_net.py").write_text(NETWORK)
    half = [0.5, 0.5, 0.5]
    teacher = {"ref": f"py:{folder / 'seg_net.py'}:net", "task": "segment", "shape": list(SHAPE), "mean": half, "std": half}
    return Recipe.from_dict({"teacher": teacher, "run": {"batch_size": 4}, **sections})


def dataset(folder: Path, n: int = 5, size: tuple[int, int] = (24, 16)) -> Path:
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / "images" / f"{i}.png")
        Image.fromarray(rng.integers(0, CLASSES + 1, (size[1], size[0]), dtype=np.uint8)).save(folder / "labels" / f"{i}.png")
    return folder


class Says(nn.Module):
    """Returns the classes that it was built with, for any input."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.logits = nn.functional.one_hot(answers, CLASSES).permute(0, 3, 1, 2).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[: len(x)]


def context(folder: Path) -> Any:
    teacher = Teacher(nn.Identity(), InputSpec(SHAPE, (0.5,) * 3, (0.5,) * 3), Segment(SegmentOptions(classes=CLASSES)))
    return world.make_context(folder).with_(teacher=teacher)


def test_logits_are_found_in_what_networks_give() -> None:
    task, logits = Segment(SegmentOptions(classes=CLASSES)), torch.randn(2, CLASSES, 4, 4)
    for output in (logits, {"out": logits, "aux": None}, {"logits": logits}, SimpleNamespace(logits=logits), (logits, 1)):
        assert task.logits(output) is logits and task.values(output) == (logits,)
    with pytest.raises(ZsqError, match="no logits"):
        task.logits({"aux": logits})
    assert not task.wrong(logits, torch.zeros(2, 3, 4, 4)) and "(2, classes, 8, 8)" in task.wrong(logits, torch.zeros(2, 3, 8, 8))


def test_the_distance_does_not_depend_on_the_number_of_pixels() -> None:
    task = Segment(SegmentOptions(classes=CLASSES))
    ours, theirs = torch.randn((2, 3, CLASSES, 1, 1)).unbind(0)
    wide = task.distance(ours.expand(-1, -1, 5, 7), theirs.expand(-1, -1, 5, 7), 2.0)
    one = 4 * nn.functional.kl_div((ours / 2).log_softmax(1), (theirs / 2).softmax(1), reduction="batchmean")
    assert torch.allclose(wide, one, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6))
def test_intersection_over_union_is_that_of_sets_of_pixels(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    right, said = rng.integers(0, classes + 2, 50), rng.integers(0, classes, 50)
    found = intersection_over_union(confusion(torch.from_numpy(said), torch.from_numpy(right), classes, ignore=(0,)))
    counted = (right < classes) & (right != 0)
    for c in range(classes):
        a, b = set(np.flatnonzero(counted & (right == c))), set(np.flatnonzero(counted & (said == c)))
        assert bool(found[c].isnan()) if not a | b else abs(float(found[c]) - len(a & b) / len(a | b)) < 1e-12


def test_the_evaluator_counts_pixels_of_the_whole_set(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "val")
    labels = torch.stack([torch.from_numpy(np.asarray(Image.open(folder / "labels" / f"{i}.png")).astype(np.int64)) for i in range(5)])
    right = labels.clamp(max=CLASSES - 1)
    found = Segmentation(SegmentationOptions(ref=str(folder)), context(tmp_path)).evaluate(Says(right), context(tmp_path))
    assert found == {"miou": 100.0, "pixel_accuracy": 100.0, "images": 5}
    wrong = torch.where(labels == 0, 1, right)
    evaluator = Segmentation(SegmentationOptions(ref=str(folder)), context(tmp_path))
    found = evaluator.evaluate(Says(wrong), context(tmp_path))
    zeros, ones, counted = int((labels == 0).sum()), int((labels == 1).sum()), int((labels < CLASSES).sum())
    assert found["miou"] == pytest.approx(100 * (0 + ones / (ones + zeros) + 2) / 4)
    assert found["pixel_accuracy"] == pytest.approx(100 * (counted - zeros) / counted)
    assert evaluator.details["by_class"]["IoU"]["0"] == 0.0


def test_images_of_another_size_are_resized_and_answers_back(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "val", size=(48, 32))
    flat = torch.full((5, SHAPE[1], SHAPE[2]), 2)
    found = Segmentation(SegmentationOptions(ref=str(folder), ignore=(0, 1, 3)), context(tmp_path)).evaluate(Says(flat), context(tmp_path))
    assert found["miou"] == 100.0


@pytest.mark.parametrize("harm", ["nowhere", "empty", "unlabelled", "sizes", "damaged", "colours", "foreign"])
def test_what_is_wrong_with_a_folder_is_said(harm: str, tmp_path: Path) -> None:
    folder = dataset(tmp_path / "val", 2)
    label = folder / "labels" / "1.png"
    if harm == "nowhere":
        folder = tmp_path / "vall"
    elif harm == "empty":
        [path.unlink() for path in (folder / "images").iterdir()]
    elif harm == "unlabelled":
        label.unlink()
    elif harm == "sizes":
        Image.new("L", (7, 7)).save(label)
    elif harm == "damaged":
        label.write_bytes(label.read_bytes()[:40])
    elif harm == "colours":
        Image.new("RGB", (24, 16)).save(label)
    else:
        [Image.new("L", (24, 16), 200).save(path) for path in (folder / "labels").iterdir()]
    evaluator, ctx = Segmentation(SegmentationOptions(ref=str(folder)), context(tmp_path)), context(tmp_path)
    with pytest.raises(FileError) as error:
        evaluator.check(ctx)
        evaluator.evaluate(Says(torch.zeros(2, SHAPE[1], SHAPE[2], dtype=torch.int64)), ctx)
    assert error.value.hint


def test_a_classifier_cannot_be_evaluated_so(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="task is 'classify'"):
        Segmentation(SegmentationOptions(ref=str(tmp_path)), world.make_context(tmp_path)).check(
            world.make_context(tmp_path, teacher=world.make_teacher())
        )


@pytest.mark.parametrize("synth", ["gdfq", "qimera", "adadfq", "intraq", "lrq"])
def test_images_of_a_class_are_refused_with_the_reason(synth: str, tmp_path: Path) -> None:
    manager = Manager.discover()
    if not any(found.component.name == synth for found in manager.components("synth")):
        pytest.skip(f"{synth} is not installed")
    with pytest.raises(PlanError, match=f"'{synth}' needs classes .*but the teacher's task is 'segment'") as error:
        compose(recipe(tmp_path, synth={"name": synth}), manager)
    assert "--synth noise" in error.value.hint and f"--synth {synth}" not in error.value.hint


@pytest.mark.parametrize(
    ("sections", "what"),
    [
        ({"synth": {"name": "zeroq"}, "loss": [{"name": "ce"}], "tune": {"name": "finetune"}}, "loss 'ce' needs targets"),
        ({"synth": {"name": "noise"}, "calib": [{"name": "aac"}]}, "calibrator 'aac' needs classes"),
        ({"synth": {"name": "noise"}, "eval": [{"name": "top1"}]}, "evaluator 'top1' needs classes"),
    ],
)
def test_so_is_everything_else_that_needs_a_class_per_image(sections: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=what):
        compose(recipe(tmp_path, **sections), Manager.discover())


def test_suggestions_that_do_not_suit_the_task_are_left_out(tmp_path: Path) -> None:
    plan = compose(recipe(tmp_path, synth={"name": "zaq"}), Manager.discover())
    assert [c.name for c in plan.calibrators] == ["mean-image-max", "abn"] and any("'aac', skipped" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("synth", "loss"),
    [
        ({"name": "noise"}, [{"name": "kd"}, {"name": "mse"}]),
        ({"name": "zeroq", "images": 8, "batch": 8, "iterations": 2}, [{"name": "kd"}]),
        ({"name": "zaq", "channels": 8}, [{"name": "logit-l1"}, {"name": "crm"}]),
    ],
)
def test_synthesizers_that_serve_every_task_run_to_the_runtime(synth: dict[str, Any], loss: list[Any], tmp_path: Path) -> None:
    folder = dataset(tmp_path / "val")
    chain = recipe(
        tmp_path,
        synth=synth,
        quant={"name": "uniform4", "scheme": "deploy"},
        calib=[{"name": "minmax", "batches": 2}, {"name": "abn", "source": "bns", "images": 8, "batch": 8, "steps": 1}]
        if synth["name"] == "noise"
        else [{"name": "minmax", "batches": 2}],
        loss=loss,
        tune={"name": "finetune", "steps": 2},
        eval=[{"name": "segmentation", "ref": str(folder)}, {"name": "agreement", "images": 8}],
        export=[{"name": "safetensors"}, {"name": "onnx"}],
    )
    result = run(chain, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["teacher"]["task"] == "segment" and 0 <= report["student"]["metrics"]["agreement"] <= 100
    assert {"miou", "pixel_accuracy"} <= report["teacher"]["metrics"].keys() and report["images_evaluated"] == 5
    bits = {path: point.bits for path, point in result.student.acts.items()}
    assert bits.pop("classifier_point") == 8 and set(bits.values()) == {4}, "what the network answers with has at least 8 bits"
    rows = [row for row in report["student"]["layers"] if "interpolation" in row["reason"]]
    assert len(rows) == 2 and not any(row["wrapped"] for row in rows)
    import zsq

    found = zsq.SavedRun(tmp_path / "run").verify(images=6)
    assert (
        found["verified"]
        and found["unit"] == "pixels"
        and found["max_abs_diff"] <= 1.01 * float(result.student.acts["classifier_point"].scale)
    )
