"""The evaluator ``coco``: mean average precision of boxes on annotated images, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from zsq.errors import FileError, library, nearest
from zsq.files import inside
from zsq.images import from_uint8
from zsq.types import Context, Teacher
from zsq_detect import CocoOptions
from zsq_detect.decoding import Boxes, Decoding, decoding_of

_WHERE = "evaluator coco"
_EXTRA = "zsq-detect[coco]"
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Scene:
    """One image of the annotation file: its id there, its path, its own width and height."""

    id: int
    path: Path
    width: int
    height: int


class Coco:
    """Average precision at overlaps of 0.5 to 0.95 (``map``) and of 0.5 (``map50``), mean over classes, in percent, as COCO defines them.

    Student and teacher are decoded in the same way, in float: priors, box decoding and suppression are not quantized.
    Images of another size than the teacher's are resized as its ``decoding.fit`` says, and boxes are measured at the image's own size.
    """

    def __init__(self, options: CocoOptions, ctx: Context) -> None:
        self.options = options
        self.details: dict[str, Any] = {}

    def check(self, ctx: Context) -> None:
        """Read the file, and check its images and the evaluation library, before any work is done on the student.

        Raises:
            FileError: If a file is missing or damaged, or its classes differ from the teacher's.
            ZsqError: If the teacher is not a detector.
            ComponentError: If the library is missing.
        """
        decoding_of(ctx.teacher, _WHERE)
        library("pycocotools.cocoeval", _EXTRA, _WHERE)
        self._open(ctx.teacher)

    def evaluate(self, module: nn.Module, ctx: Context) -> dict[str, float]:
        """``map``, ``map50`` and ``images``, the number evaluated; ``details`` keeps the boxes by image number."""
        decoding = decoding_of(ctx.teacher, _WHERE)
        coco, scenes, categories = self._open(ctx.teacher)
        height, width = ctx.teacher.inputs.shape[1:]
        size = self.options.batch_size or max(1, 2**21 // math.prod(ctx.teacher.inputs.shape))
        rows: list[dict[str, Any]] = []
        for start in range(0, len(scenes), size):
            part = scenes[start : start + size]
            with ThreadPoolExecutor() as pool:
                pixels = np.stack(list(pool.map(lambda scene: _input(scene, (height, width), decoding), part)))
            with torch.no_grad():
                found = decoding(module(from_uint8(pixels, ctx.teacher.inputs).to(ctx.device)), (height, width))
            for scene, boxes in zip(part, found, strict=True):
                rows += _rows(scene, boxes, (height, width), decoding, categories)
        self.details = {"boxes": rows}
        precision = _precision(coco, rows, [scene.id for scene in scenes])
        return {"map": 100 * precision[0], "map50": 100 * precision[1], "images": len(scenes)}

    def _open(self, teacher: Teacher) -> tuple[dict[str, Any], list[Scene], list[int | None]]:
        """The file, its images, and the category id of each class of the teacher (None for classes that the file lacks)."""
        o, path = self.options, Path(self.options.ref)
        if not o.ref:
            raise FileError("no file of annotations is given", _WHERE, "write --eval coco:FILE.json")
        if not path.is_file():
            names = [p.name for p in path.parent.glob("*.json")] if path.parent.is_dir() else []
            raise FileError("the annotations do not exist", str(path), nearest(path.name, names) or "check the path")
        coco = _read(path)
        folder = Path(o.images) if o.images else path.with_suffix("")
        scenes = _scenes(coco, folder if folder.is_dir() else path.parent, str(path))[: o.limit]
        return coco, scenes, _categories(coco, teacher, str(path))


def _read(path: Path) -> dict[str, Any]:
    """Read images, annotations and categories, and check the fields that are needed.

    Raises:
        FileError: If the file is not of this form.
    """
    hint = "it must have lists of images, annotations and categories, as instances_val2017.json does"
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"] for image in coco["images"]}
        known = {category["id"]: str(category["name"]) for category in coco["categories"]}
        for image in coco["images"]:
            if min(int(image["width"]), int(image["height"])) < 1 or not isinstance(image["file_name"], str):
                raise ValueError("an image without a size or a file")
        for row in coco["annotations"]:
            if row["image_id"] not in images or row["category_id"] not in known:
                raise ValueError(f"annotation {row.get('id')} names an image or category that is not in the file")
            if len(row["bbox"]) != 4 or not all(math.isfinite(v) for v in row["bbox"]):
                raise ValueError(f"annotation {row.get('id')} has no box")
            row.setdefault("area", row["bbox"][2] * row["bbox"][3])
            row.setdefault("iscrowd", 0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        gone = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error).splitlines()[0][:120] if str(error) else ""
        raise FileError(f"no annotations of COCO's form: {gone}", str(path), hint) from error
    if not images or not known:
        raise FileError("there are no images or no categories", str(path), "nothing to evaluate on")
    return dict(coco)


def _scenes(coco: dict[str, Any], folder: Path, where: str) -> list[Scene]:
    scenes = [Scene(i["id"], inside(folder, i["file_name"]), int(i["width"]), int(i["height"])) for i in coco["images"]]
    if gone := next((scene.path for scene in scenes if not scene.path.is_file()), None):
        raise FileError(f"there is no image '{gone.name}' in {folder}", where, "give the folder of the images: --set eval.images=DIR")
    return scenes


def _categories(coco: dict[str, Any], teacher: Teacher, where: str) -> list[int | None]:
    """By name if the teacher's labels and the categories share one, else in the order of their ids."""
    background = decoding_of(teacher, _WHERE).background
    numbers = {str(c["name"]): int(c["id"]) for c in coco["categories"]}
    if set(teacher.labels) & numbers.keys():
        if missing := sorted(numbers.keys() - set(teacher.labels)):
            raise FileError(f"the teacher has no class '{missing[0]}'", where, f"it has: {', '.join(teacher.labels[:12])}")
        return [numbers.get(label) for label in teacher.labels[background:]]
    classes = teacher.task.classes - background
    if classes != len(numbers):
        what = f"{len(numbers)} categories, but the teacher has {classes} classes"
        raise FileError(what, where, "check that it belongs to the teacher's data set")
    return [*sorted(numbers.values())]


def _input(scene: Scene, size: tuple[int, int], decoding: Decoding) -> NDArray[np.uint8]:
    """Pixels uint8 (H, W, 3) of the network's size."""
    try:
        with Image.open(scene.path) as opened:
            image: Image.Image = opened.convert("RGB")
    except _DAMAGED as error:
        raise FileError(f"'{scene.path.name}' cannot be read as an image", str(scene.path.parent), "remove it or copy it again") from error
    height, width = size
    if image.size != (width, height):
        if decoding.fit == "stretch":
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        else:
            scale = min(width / image.width, height / image.height)
            smaller = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BILINEAR)
            image = Image.new("RGB", (width, height))
            image.paste(smaller, (0, 0))
    return np.array(image, dtype=np.uint8)


def _rows(scene: Scene, found: Boxes, size: tuple[int, int], decoding: Decoding, categories: list[int | None]) -> list[dict[str, Any]]:
    """Detections in COCO's format, in pixels of the original image."""
    across, down = scene.width / size[1], scene.height / size[0]
    if decoding.fit == "pad":
        across = down = max(across, down)
    rows = []
    for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True):
        left, top, right, bottom = box[0] * across, box[1] * down, box[2] * across, box[3] * down
        if (category := categories[label]) is not None:
            shape = [left, top, right - left, bottom - top]
            rows.append({"image_id": scene.id, "category_id": category, "bbox": shape, "score": score})
    return rows


def _precision(truth: dict[str, Any], rows: list[dict[str, Any]], images: list[int]) -> tuple[float, float]:
    """Average precision at 0.5 to 0.95, and at 0.5; 0 if nothing was found."""
    if not rows:
        return 0.0, 0.0
    tools = library("pycocotools.coco", _EXTRA, _WHERE)
    evaluation = library("pycocotools.cocoeval", _EXTRA, _WHERE)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints tables
        known = tools.COCO()
        known.dataset = truth
        known.createIndex()
        judge = evaluation.COCOeval(known, known.loadRes(rows), "bbox")
        judge.params.imgIds = images
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0]), float(judge.stats[1])
