"""What the task draws: the surest boxes of every image, by the teacher's names, and in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from zsq_detect import DetectOptions
from zsq_detect.boxes import Priors, grid
from zsq_detect.decoding import Decoding
from zsq_detect.task import Detect

from zsq.errors import ZsqError

PRIORS = Priors(grid((4, 4), 8, 8.0))


def teacher(scores: str, *labels: str) -> Any:
    task = Detect(DetectOptions(classes=2))
    module = SimpleNamespace(decoding=Decoding(PRIORS, scores=scores))  # type: ignore[arg-type]
    return SimpleNamespace(task=task, module=module, labels=labels, inputs=SimpleNamespace(shape=(3, 32, 32)))


def output(**logits: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One image whose priors have these logits of class 1, by their number; nothing else is seen."""
    scores = torch.full((1, 16, 2), -9.0)
    scores[..., 0] = logits.pop("first", -9.0)
    for prior, value in logits.items():
        scores[0, int(prior[1:]), 1] = value
    return scores, torch.zeros(1, 16, 4)


def test_boxes_are_those_of_the_decoding_the_surest_first() -> None:
    found = teacher("sigmoid", "cat", "dog")
    (drawn,) = found.task.draw(output(p0=0.0, p5=3.0), found)
    assert [(box.corners, box.label) for box in drawn.boxes] == [((8.0, 8.0, 16.0, 16.0), 1), ((0.0, 0.0, 8.0, 8.0), 1)]
    assert drawn.boxes[0].score == pytest.approx(float(torch.tensor(3.0).sigmoid())) and drawn.boxes[1].score == 0.5
    assert drawn.said == "2 boxes, the surest dog 95 %, dog 50 %" and drawn.areas is None


def test_the_background_has_no_name() -> None:
    found = teacher("softmax", "background", "cat")
    (drawn,) = found.task.draw(output(first=0.0, p3=4.0), found)
    assert drawn.names == ("cat",) and [box.label for box in drawn.boxes] == [0] and drawn.said == "one box, cat 98 %"


def test_no_more_boxes_than_an_image_can_show() -> None:
    found = teacher("sigmoid")
    (drawn,) = found.task.draw(output(**{f"p{i}": 1.0 for i in range(16)}), found)
    assert len(drawn.boxes) == 8 and drawn.said.startswith("16 boxes, the surest class 1 73 %")
    (empty,) = found.task.draw(output(), found)
    assert empty.boxes == () and empty.said == "no box"


def test_without_a_decoding_nothing_can_be_drawn() -> None:
    found = teacher("sigmoid")
    found.module = SimpleNamespace()
    with pytest.raises(ZsqError, match="does not say how its boxes are decoded"):
        found.task.draw(output(), found)


def test_priors_have_no_probabilities() -> None:
    assert Detect(DetectOptions(classes=2)).probabilities(output()) is None
