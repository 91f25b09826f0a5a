"""A small run with its page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zsq import Recipe
from zsq.testing.world import Manager, compose, run

TEACHER = '''
"""A small teacher with names for its classes."""

import torch

from zsq.testing.teachers import Tiny


def tiny():
    torch.manual_seed(0)
    network = Tiny(classes=4, channels=8)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network
'''


@dataclass(frozen=True)
class Made:
    """A finished run."""

    folder: Path
    report: dict[str, Any]

    @property
    def page(self) -> Path:
        return self.folder / "report.html"


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real images with labels, for a network that has learnt nothing."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images") / "real.npz"
    np.savez(path, images=rng.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8), labels=rng.integers(0, 4, 64))
    return path


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, images: Path) -> dict[str, Any]:
    """A chain with every section of the page but mixed precision."""
    code = tmp_path_factory.mktemp("teacher") / "tiny_teacher.py"
    code.write_text(TEACHER)
    return {
        "teacher": {"ref": f"py:{code}:tiny", "shape": [3, 8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "synth": {"name": "noise"},
        "quant": {"name": "uniform4"},
        "calib": [{"name": "percentile", "batches": 2}],
        "tune": {"name": "finetune", "steps": 6},
        "eval": [{"name": "npz", "ref": str(images)}],
        "run": {"batch_size": 16},
    }


def make(recipe: dict[str, Any], folder: Path, *plugins: str, **options: Any) -> Made:
    """Run a recipe with these plugins alone."""
    torch.manual_seed(0)
    manager = Manager.discover(only=plugins or ["report"])
    result = run(compose(Recipe.from_dict(recipe), manager), folder, manager=manager, **options)
    return Made(folder, dict(result.report))


@pytest.fixture(scope="session")
def made(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(recipe, tmp_path_factory.mktemp("made") / "run")
