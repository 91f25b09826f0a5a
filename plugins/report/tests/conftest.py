"""A small run with its page, and a browser where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zsq.compose import compose
from zsq.manager import Manager
from zsq.recipe import Recipe
from zsq.run.engine import run

TEACHER = '''
"""A small teacher with names for its classes."""

from dataclasses import replace

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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium that is already here: ``$CHROMIUM``, or the one of the system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright (plugins/report/README.md says how to have it)")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium (plugins/report/README.md says how to have it)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    package = pytest.importorskip("axe_playwright_python", reason="no axe-core (plugins/report/README.md says how to have it)")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
