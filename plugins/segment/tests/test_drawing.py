"""What the task draws: the class of every pixel, by the teacher's names, and in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from zsq_segment import SegmentOptions
from zsq_segment.task import Segment


def teacher(*labels: str) -> Any:
    return SimpleNamespace(labels=labels)


def test_every_pixel_has_the_class_of_its_largest_logit() -> None:
    logits = torch.zeros(2, 3, 4, 5)
    logits[0, 1, :2] = 1
    logits[0, 2, 2:] = 1
    logits[1, 0] = 1
    task = Segment(SegmentOptions(classes=3))
    first, second = task.draw({"out": logits}, teacher("sky", "road", "tree"))
    assert first.areas is not None and second.areas is not None
    assert torch.equal(first.areas, logits[0].argmax(0)) and not second.areas.any()
    assert first.said == "road 50 %, tree 50 %" and second.said == "sky 100 %" and first.names == ("sky", "road", "tree")
    assert task.draw(logits, teacher())[0].said == "class 1 50 %, class 2 50 %", "numbers where names are not known"


def test_a_few_classes_are_told_and_the_others_counted() -> None:
    areas = torch.arange(10) * torch.ones(10, 1)
    logits = torch.nn.functional.one_hot(areas.long(), 10).permute(2, 0, 1)[None].float()
    (drawn,) = Segment(SegmentOptions(classes=10)).draw(logits, teacher())
    assert drawn.said == "class 0 10 %, class 1 10 %, class 2 10 %, class 3 10 %, 6 more"


def test_probabilities_are_of_every_pixel() -> None:
    found = Segment(SegmentOptions(classes=3)).probabilities(torch.randn(2, 3, 4, 5))
    assert found.shape == (2, 3, 4, 5) and torch.allclose(found.sum(1), torch.ones(2, 4, 5))
