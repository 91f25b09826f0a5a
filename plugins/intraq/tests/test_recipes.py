"""What the authors' recipes must not get wrong in the student's half."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from zsq.testing.world import Manager, compose, make_component, make_teacher, read_recipe
from zsq.types import Batch, Trace, View

AUTHORS = [path for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml")) if not path.stem.endswith(("short", "spectrum"))]


@pytest.fixture(scope="module")
def manager() -> Manager:
    return Manager.discover()


@pytest.mark.parametrize("path", AUTHORS, ids=lambda path: path.stem)
def test_students_half_of_the_authors_recipes(path: Path, manager: Manager) -> None:
    plan = compose(replace(read_recipe(path), teacher={"ref": "zoo:resnet20-cifar10"}), manager)
    tune = plan.tuner.options
    assert (tune.batch_norm, tune.range_lr, tune.steps, tune.optimizer, tune.nesterov) == ("frozen", 0, 147 * 200, "sgd", True)
    assert [c.name for c in plan.losses] == ["kd", "ce"]
    z_q, z_p = torch.randn((2, 8, 10), generator=torch.Generator().manual_seed(0))
    view = View(Batch(z_q), Trace(z_p), Trace(z_q), make_teacher().task)
    divergence = F.kl_div((z_q / 20).log_softmax(1), (z_p / 20).softmax(1), reduction="batchmean")
    kd = plan.losses[0]
    loss = make_component("loss", "kd", **kd.options.to_dict())
    assert kd.weight * float(loss(view)) == pytest.approx(8000 * float(divergence), rel=1e-4)
    imagenet = "imagenet" in path.stem
    assert (tune.lr, plan.run.batch_size) == ((1e-6, 16) if imagenet else (1e-4, 256))
    assert [m // 200 + 4 for m in tune.milestones] == ([100] if imagenet else [20, 40, 60])
