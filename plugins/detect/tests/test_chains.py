"""Whole chains on a small detector of one's own, through the doors of users: recipe, run, files, the loaded student."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import zsq
from zsq import Recipe
from zsq.testing.world import run

HEIGHT, WIDTH = 32, 48
NETWORK = """
import torch
from torch import nn
from zsq_detect.boxes import Priors, grid
from zsq_detect.decoding import Decoding

from zsq.testing.teachers import settled


class Net(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.scores, self.boxes = nn.Conv2d(8, classes, 1), nn.Conv2d(8, 4, 1)
        priors = torch.cat([grid((8, 12), 4, 6.0), grid((4, 6), 8, 12.0)])
        self.decoding = Decoding(Priors(priors))

    def forward(self, x):
        wide = self.down(x)
        deep = self.deep(wide)
        wide = wide + nn.functional.interpolate(deep, scale_factor=2.0)
        scores, boxes = ([head(y).flatten(2).transpose(1, 2) for y in (wide, deep)] for head in (self.scores, self.boxes))
        return torch.cat(scores, 1), torch.cat(boxes, 1)


def net(classes=2):
    return settled(Net(classes), torch.randn(32, 3, 32, 48))
"""


def recipe(folder: Path, **sections: Any) -> Recipe:
    (folder / "det_net.py").write_text(NETWORK)
    half = [0.5, 0.5, 0.5]
    teacher = {"ref": f"py:{folder / 'det_net.py'}:net", "task": "detect", "shape": [3, HEIGHT, WIDTH], "mean": half, "std": half}
    return Recipe.from_dict({"teacher": teacher, "run": {"batch_size": 4}, **sections})


def dataset(folder: Path) -> Path:
    """Three images of noise, with a box each."""
    rng = np.random.default_rng(0)
    (folder / "val").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / "val" / f"{i}.png")
    images = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(3)]
    rows = [{"id": i + 1, "image_id": i, "category_id": i % 2 + 1, "bbox": [4, 4, 20, 20]} for i in range(3)]
    coco = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
    (folder / "val.json").write_text(json.dumps(coco))
    return folder / "val.json"


@pytest.mark.parametrize(
    ("synth", "loss"),
    [
        ({"name": "noise"}, [{"name": "kd"}, {"name": "mse"}]),
        ({"name": "zeroq", "images": 8, "batch": 8, "iterations": 2}, [{"name": "kd"}]),
        ({"name": "zaq", "channels": 8}, [{"name": "logit-l1"}, {"name": "crm"}]),
    ],
)
def test_synthesizers_that_serve_every_task_run_to_the_runtime(synth: dict[str, Any], loss: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed (make setup)")
    pytest.importorskip("zsq_onnx.runtime")
    chain = recipe(
        tmp_path,
        synth=synth,
        quant={"name": "uniform4", "scheme": "deploy"},
        calib=[{"name": "minmax", "batches": 2}],
        loss=loss,
        tune={"name": "finetune", "steps": 2},
        eval=[{"name": "coco", "ref": str(dataset(tmp_path))}, {"name": "agreement", "images": 8}],
        export=[{"name": "safetensors"}, {"name": "onnx"}],
    )
    result = run(chain, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["teacher"]["task"] == "detect" and report["images_evaluated"] == 3
    for network in ("teacher", "student"):
        assert {"map", "map50"} <= report[network]["metrics"].keys()
    bits = {path: point.bits for path, point in result.student.acts.items()}
    last = [path for path in bits if path.startswith(("scores", "boxes"))]
    assert len(last) == 4 and {bits.pop(path) for path in last} == {8} and set(bits.values()) == {4}, "answers have at least 8 bits"
    assert any("non-maximum" in part for part in report["student"]["float_parts"]), "what stays in float is not said"
    shown = Console(width=120, file=io.StringIO(), record=True)
    shown.print(zsq.SavedRun(tmp_path / "run"))
    parts = ", ".join(report["student"]["float_parts"])
    assert re.search(rf"in float +{re.escape(parts)}", shown.export_text()) and parts in (tmp_path / "run" / "README.md").read_text()
    images = torch.randn(5, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        ours, saved = result.student.module(images), zsq.load(tmp_path / "run")(images)
    assert ours[0].shape == (5, 120, 2) and ours[1].shape == (5, 120, 4)
    assert all(torch.equal(a, b) for a, b in zip(ours, saved, strict=True))

    found = zsq.SavedRun(tmp_path / "run").verify(images=6)
    assert (
        found["verified"]
        and found["unit"] == "priors"
        and found["max_abs_diff"] <= 1.01 * max(float(result.student.acts[path].scale) for path in last)
    )
