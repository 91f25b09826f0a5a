"""The embedded detector: what it gives out, how its boxes lie, how good it is; and the images and boxes of its training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from zsq_zoo import ZooOptions
from zsq_zoo.litedet import LiteDet, decoding
from zsq_zoo.source import ASSETS, BCCD, Zoo

from zsq.testing import world
from zsq.types import Teacher

pytest.importorskip("zsq_detect", reason="zsq-detect is not installed (make setup)")
from zsq_detect import CocoOptions, DetectOptions
from zsq_detect.coco import Coco
from zsq_detect.task import Detect

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "bccd"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))


def load() -> Teacher:
    ctx = SimpleNamespace(trust_code=False, task=lambda classes: Detect(DetectOptions(classes=classes)))
    return Zoo(ZooOptions(), ctx).load(BCCD)  # type: ignore[arg-type]


def test_it_comes_complete() -> None:
    teacher = load()
    assert teacher.task.name == "detect" and teacher.task.classes == len(teacher.labels) == 3 and teacher.inputs.shape == (3, 240, 320)
    assert len(teacher.taps) == 3
    assert sum(p.numel() for p in teacher.module.parameters()) < 1_000_000
    assert (ASSETS / f"{BCCD}.safetensors").stat().st_size < 12e6


@pytest.mark.accuracy
@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/bccd")
def test_it_is_as_good_as_its_sidecar_says(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed (make setup)")
    teacher = load()
    ctx = world.make_context(tmp_path, teacher=teacher)
    found = Coco(CocoOptions(ref=str(SHARED / "val.json")), ctx).evaluate(teacher.module, ctx)
    said = json.loads((ASSETS / f"{BCCD}.json").read_text())["bccd_val"]
    assert found["map50"] == pytest.approx(said["map50"], abs=0.2) and found["map"] == pytest.approx(said["map"], abs=0.2)
    assert said["map50"] >= 80 and found["images"] == 87


@pytest.mark.parametrize("size", [(64, 96), (240, 320)])
def test_every_cell_has_one_prior(size: tuple[int, int]) -> None:
    network = LiteDet(3).eval()
    priors = decoding(*size, where="test").priors
    with torch.no_grad():
        scores, offsets = network(torch.zeros(1, 3, *size))
    assert scores.shape == (1, len(priors), 3) and offsets.shape == (1, len(priors), 4)


@pytest.mark.parametrize("cell", [650, 1350, 1545])
def test_a_cell_looks_at_the_place_of_its_prior(cell: int) -> None:
    """One of each map: where the input moves its score, on average, is where its prior lies."""
    network = load().module
    images = torch.randn(1, 3, 240, 320, generator=torch.Generator().manual_seed(0)).requires_grad_()
    network(images)[0][0, cell].sum().backward()
    assert images.grad is not None
    pull = images.grad.abs().sum((0, 1))
    place = torch.stack([(pull.sum(0) * torch.arange(320)).sum(), (pull.sum(1) * torch.arange(240)).sum()]) / pull.sum()
    x, y, side, _ = network.decoding.priors.centred[cell].tolist()
    assert abs(place[0] - x) < side / 2 and abs(place[1] - y) < side / 2


def test_boxes_follow_what_is_done_to_the_images_in_training() -> None:
    from train_bccd import augment

    rng = torch.Generator().manual_seed(0)
    images = torch.zeros(16, 3, 48, 64)
    images[:, :, 20:28, 24:40] = 1
    out, boxes, classes = augment(images, [torch.tensor([[24.0, 20.0, 40.0, 28.0]])] * 16, [torch.tensor([2])] * 16, rng)
    for image, box, label in zip(out, boxes, classes, strict=True):
        bright = (image[1] > (image[1].min() + image[1].max()) / 2).nonzero()
        corners = torch.cat([bright.amin(0).flip(0), bright.amax(0).flip(0) + 1]).float()
        assert label.tolist() == [2] and (box[0] - corners).abs().max() <= 1.5


def test_cells_on_an_object_are_its_own() -> None:
    from train_bccd import assign

    priors: Any = decoding(64, 64, where="test").priors
    boxes = torch.tensor([[8.0, 8.0, 32.0, 32.0], [40.0, 40.0, 60.0, 60.0]])
    target, owner = assign(
        torch.full((len(priors), 3), 0.01), priors.decode(torch.zeros(len(priors), 4)), priors, boxes, torch.tensor([0, 2])
    )
    assert target[:, 1].sum() == 0 and set(owner.tolist()) == {-1, 0, 1}
    for number, label in ((0, 0), (1, 2)):
        mine = owner == number
        centres = priors.centred[mine, :2]
        assert (centres > boxes[number, :2]).all() and (centres < boxes[number, 2:]).all()
        assert target[mine, label].max() > 0.5 and (target[owner == -1] == 0).all()
