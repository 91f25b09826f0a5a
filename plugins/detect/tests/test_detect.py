"""Boxes by their definitions, decoding, the task, and the evaluator on files whose precision is known by hand."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from zsq_detect import CocoOptions, DetectOptions
from zsq_detect.boxes import Priors, grid, iou, nms
from zsq_detect.coco import Coco
from zsq_detect.decoding import Decoding
from zsq_detect.task import Detect

from zsq import Recipe
from zsq.errors import ComponentError, FileError, PlanError, ZsqError
from zsq.testing import conformance, world
from zsq.testing.world import Manager, compose, read_recipe
from zsq.types import InputSpec, Teacher

test_task = conformance("detect")
test_evaluator = conformance("coco")

#: Two classes; a prior of 8 pixels in every cell of 8 pixels of a 32 x 48 input.
SIZE, STRIDE = (32, 48), 8


# -- boxes -----------------------------------------------------------------------------------------------------------------


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union of two boxes, by counting."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either else 0.0


#: A busy machine needs long to make examples.
patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
side = st.integers(0, 12)
box = st.tuples(side, side, st.integers(1, 8), st.integers(1, 8)).map(lambda v: [float(n) for n in (v[0], v[1], v[0] + v[2], v[1] + v[3])])


@patient
@given(st.lists(box, min_size=1, max_size=5), st.lists(box, min_size=1, max_size=5))
def test_overlap_is_what_counting_gives(first: list[list[float]], second: list[list[float]]) -> None:
    found = iou(torch.tensor(first), torch.tensor(second))
    expected = torch.tensor([[overlap(a, b) for b in second] for a in first])
    assert torch.allclose(found, expected, atol=1e-6)


@patient
@given(st.lists(st.tuples(box, st.integers(0, 3), st.integers(0, 1)), max_size=12), st.sampled_from([0.3, 0.5, 0.7]))
def test_suppression_keeps_what_no_better_box_of_its_class_covers(rows: list[tuple[list[float], int, int]], threshold: float) -> None:
    boxes = torch.tensor([r[0] for r in rows]).reshape(-1, 4)
    scores, groups = torch.tensor([r[1] / 4 for r in rows]), torch.tensor([r[2] for r in rows], dtype=torch.long)
    kept: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -rows[i][1]):  # stable: equal scores in their order
        if all(rows[i][2] != rows[j][2] or overlap(rows[i][0], rows[j][0]) <= threshold + 1e-7 for j in kept):
            kept.append(i)
    assert nms(boxes, scores, groups, threshold).tolist() == kept


def test_decoding_moves_by_parts_of_the_prior_and_grows_by_exp() -> None:
    priors = Priors(torch.tensor([[10.0, 20.0, 8.0, 4.0]]), (10.0, 10.0, 5.0, 5.0))
    assert priors.decode(torch.zeros(1, 4)).tolist() == [[6.0, 18.0, 14.0, 22.0]]
    moved = priors.decode(torch.tensor([[10.0, -5.0, 5 * math.log(2), 0.0]]))
    assert torch.allclose(moved, torch.tensor([[10.0, 16.0, 26.0, 20.0]]), atol=1e-5)
    assert torch.isfinite(priors.decode(torch.full((1, 4), 1e9))).all()


def test_a_grid_has_one_prior_in_the_middle_of_every_cell() -> None:
    assert grid((1, 2), 8, 5.0).tolist() == [[4.0, 4.0, 5.0, 5.0], [12.0, 4.0, 5.0, 5.0]]


# -- a network whose answers are known -----------------------------------------------------------------------------------------


class Told(nn.Module):
    """Finds a square of 8 pixels in every bright cell: class 0 where it is red, class 1 where it is green."""

    def __init__(self, decoding: Decoding) -> None:
        super().__init__()
        self.decoding, self.pool = decoding, nn.AvgPool2d(STRIDE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        cells = self.pool(x)[:, :2].flatten(2).transpose(1, 2)
        scores = cells * 8 - 4
        if self.decoding.background:
            scores = torch.cat([torch.zeros_like(scores[..., :1]), scores], 2)
        return scores, torch.zeros(*scores.shape[:2], 4)


def teacher(labels: tuple[str, ...] = (), **decoding: Any) -> Teacher:
    priors = Priors(grid((SIZE[0] // STRIDE, SIZE[1] // STRIDE), STRIDE, 8.0))
    module = Told(Decoding(priors, **decoding)).eval()
    classes = 2 + module.decoding.background
    return Teacher(module, InputSpec((3, *SIZE), (0.0,) * 3, (1.0,) * 3), Detect(DetectOptions(classes=classes)), labels=labels)


def dataset(folder: Path, scale: int = 1, **changes: Any) -> Path:
    """Two images of ``SIZE`` times ``scale``: one red cell and one green one; one red cell."""
    spots = {1: [(0, 0, 0), (24, 16, 1)], 2: [(40, 8, 0)]}
    (folder / "val").mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number, cells in spots.items():
        pixels = np.zeros((SIZE[0] * scale, SIZE[1] * scale, 3), np.uint8)
        for x, y, label in cells:
            x, y, step = x * scale, y * scale, 8 * scale
            pixels[y : y + step, x : x + step, label] = 255
            rows.append({"id": len(rows) + 1, "image_id": number, "category_id": 10 * (label + 1), "bbox": [x, y, step, step]})
        Image.fromarray(pixels).save(folder / "val" / f"{number}.png")
    images = [{"id": n, "file_name": f"{n}.png", "width": SIZE[1] * scale, "height": SIZE[0] * scale} for n in spots]
    categories = [{"id": 10, "name": "red"}, {"id": 20, "name": "green"}]
    coco = {"images": images, "annotations": rows, "categories": categories, **changes}
    (folder / "val.json").write_text(json.dumps(coco))
    return folder / "val.json"


def precision(path: Path, of: Teacher, folder: Path, **options: Any) -> dict[str, float]:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed (make setup)")
    ctx = world.make_context(folder, teacher=of)
    evaluator = Coco(CocoOptions(ref=str(path), **options), ctx)
    evaluator.check(ctx)
    return evaluator.evaluate(of.module, ctx)


# -- decoding and the task -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_boxes_come_best_first_with_their_class(scores: Any) -> None:
    of = teacher(scores=scores, threshold=0.5)
    images = torch.zeros(2, 3, *SIZE)
    images[0, 0, :8, :8], images[0, 1, 16:24, 24:32] = 0.9, 1.0
    first, second = of.module.decoding(of.module(images), SIZE)
    assert first.classes.tolist() == [1, 0] and first.boxes.tolist() == [[24, 16, 32, 24], [0, 0, 8, 8]]
    assert first.scores[0] > first.scores[1] > 0.5 and not len(second.boxes)


def test_as_many_boxes_as_asked_for_and_none_outside() -> None:
    of = teacher(threshold=0.5, most=3)
    found = of.module.decoding((torch.full((1, 24, 2), 2.0), torch.full((1, 24, 4), 3.0)), SIZE)[0]
    assert len(found.boxes) == 3 and (found.boxes >= 0).all() and (found.boxes <= torch.tensor([48.0, 32.0, 48.0, 32.0])).all()


def test_other_priors_than_outputs_are_told() -> None:
    with pytest.raises(ZsqError, match=r"outputs 5 boxes .* 24 priors"):
        teacher().module.decoding((torch.zeros(1, 5, 2), torch.zeros(1, 5, 4)), SIZE)


def test_distance_counts_scores_and_offsets_alike() -> None:
    task = Detect(DetectOptions(classes=2))
    output = (torch.zeros(2, 5, 2), torch.zeros(2, 5, 4))
    assert float(task.distance((output[0] + 1, output[1]), output)) == 1 == float(task.distance((output[0], output[1] - 1), output))
    assert float(task.distance((output[0] + 1, output[1] + 2), output)) == 3


@pytest.mark.parametrize("output", [torch.zeros(2, 5), (torch.zeros(2, 5, 2),), {"logits": torch.zeros(2, 5, 2)}, None])
def test_an_output_that_is_no_pair_is_refused(output: Any) -> None:
    with pytest.raises(ZsqError, match="not a pair"):
        Detect(DetectOptions(classes=2)).logits(output)


# -- the evaluator ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_a_network_that_finds_all_has_all_points(scores: Any, tmp_path: Path) -> None:
    assert precision(dataset(tmp_path), teacher(scores=scores), tmp_path) == {"map": 100.0, "map50": 100.0, "images": 2}


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_boxes_are_measured_at_the_size_of_the_image(fit: Any, tmp_path: Path) -> None:
    assert precision(dataset(tmp_path, scale=3), teacher(fit=fit), tmp_path)["map50"] == 100


def test_what_is_missed_costs_what_its_definition_says(tmp_path: Path) -> None:
    """One of two red squares lies elsewhere, and is found first: precision 1/2 at 51 of 101 recalls, then 0. Green is right."""
    path = dataset(tmp_path)
    coco = json.loads(path.read_text())
    coco["annotations"][0]["bbox"] = [4, 0, 8, 8]
    path.write_text(json.dumps(coco))
    assert precision(path, teacher(), tmp_path)["map50"] == pytest.approx(100 * (51 / 2 / 101 + 1) / 2)


def test_a_network_that_finds_nothing_has_no_points(tmp_path: Path) -> None:
    assert precision(dataset(tmp_path), teacher(threshold=0.999), tmp_path)["map"] == 0


def test_classes_go_by_name_where_the_teacher_has_names(tmp_path: Path) -> None:
    path = dataset(tmp_path)
    assert precision(path, teacher(labels=("red", "green")), tmp_path)["map50"] == 100
    assert precision(path, teacher(labels=("green", "red")), tmp_path)["map50"] == 0
    assert precision(path, teacher(labels=("background", "red", "green"), scores="softmax"), tmp_path)["map50"] == 100


def test_the_first_so_many_images(tmp_path: Path) -> None:
    assert precision(dataset(tmp_path), teacher(), tmp_path, limit=1)["images"] == 1


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"annotations": [{"id": 1, "image_id": 9, "category_id": 10, "bbox": [0, 0, 1, 1]}]}, "annotation 1 names an image or category"),
        ({"annotations": [{"id": 1, "image_id": 1, "category_id": 10, "bbox": [0, 0, float("inf"), 1]}]}, "annotation 1 has no box"),
        ({"annotations": [{"id": 1}]}, "'image_id' is missing"),
        ({"categories": [{"id": 10, "name": "red"}], "annotations": []}, "1 categories, but the teacher has 2"),
        ({"images": [], "annotations": []}, "no images"),
        ({"images": [{"id": 1, "file_name": "../../x.png", "width": 4, "height": 4}], "annotations": []}, "outside its folder"),
        ({"images": [{"id": 1, "file_name": "none.png", "width": 4, "height": 4}], "annotations": []}, "no image 'none.png'"),
        ({"images": [{"id": 1, "file_name": "1.png", "width": 0, "height": 4}], "annotations": []}, "without a size"),
        ({"images": 3}, "no annotations of COCO's form"),
    ],
)
def test_a_file_that_is_none_is_told(changes: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=what):
        precision(dataset(tmp_path, **changes), teacher(), tmp_path)


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    dataset(tmp_path)
    with pytest.raises(FileError, match="do not exist") as error:
        precision(tmp_path / "vel.json", teacher(), tmp_path)
    assert "val.json" in error.value.hint


def test_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ZsqError, match="'classify', not 'detect'"):
        precision(dataset(tmp_path), world.make_teacher(), tmp_path)


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    ctx = world.make_context(tmp_path, teacher=teacher())
    with pytest.raises(ComponentError) as error:
        Coco(CocoOptions(ref=str(dataset(tmp_path))), ctx).check(ctx)
    assert "zsq-detect[coco]" in error.value.hint


# -- plans -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_recipes_compose(path: Path) -> None:
    manager = Manager.discover()
    for role, name in (("synth", "zeroq"), ("synth", "zaq"), ("quant", "squant"), ("teacher", "zoo")):
        if not any(found.component.name == name for found in manager.components(role)):
            pytest.skip(f"{name} is not installed")
    plan = compose(read_recipe(path), manager)
    assert plan.task.name == "detect" and not plan.notes


@pytest.mark.parametrize("entry", [{"synth": "gdfq"}, {"loss": ["ce"]}, {"eval": ["npz:x.npz"]}])
def test_what_needs_a_class_of_every_image_is_refused_by_the_plan(entry: dict[str, Any]) -> None:
    recipe = Recipe.from_dict({"teacher": "zoo:litedet-bccd", **entry})
    with pytest.raises(PlanError, match="task is 'detect'"):
        compose(recipe, Manager.discover())
