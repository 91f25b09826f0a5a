"""The task ``classify``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from zsq._builtin.classify import Classify
from zsq._builtin.options import ClassifyOptions
from zsq.errors import ZsqError

TASK = Classify(ClassifyOptions(classes=5), None)


def test_logits_are_found_in_what_networks_give() -> None:
    logits = torch.randn(2, 5)
    for output in (logits, SimpleNamespace(logits=logits), {"logits": logits, "aux": 1}, (logits, "aux"), [logits]):
        assert TASK.logits(output) is logits
    for output in ({}, None, (), "text"):
        with pytest.raises(ZsqError, match="no logits"):
            TASK.logits(output)


def test_targets_are_uniform_and_from_the_given_generator() -> None:
    targets = TASK.targets(5000, torch.Generator().manual_seed(1))
    assert torch.equal(targets, TASK.targets(5000, torch.Generator().manual_seed(1)))
    counts = torch.bincount(targets, minlength=5)
    assert targets.dtype == torch.int64 and len(counts) == 5
    assert (counts - 1000).abs().max() < 150  # five standard deviations


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distance_is_the_kl_divergence_times_t_squared(temperature: float) -> None:
    student, teacher = torch.randn((2, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, q = (F.softmax(x / temperature, 1) for x in (teacher, student))
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    assert float(TASK.distance(student, teacher, temperature)) == pytest.approx(float(expected), rel=1e-4)
    assert float(TASK.distance(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-6)
