"""Shared set-up of every test in the repository."""

import os
import sys
from importlib.util import find_spec
from typing import Any

import pytest

# Tiny networks gain nothing from threads, and lose minutes when something else keeps the cores busy. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of runs need no page each; its own tests ask for theirs.
os.environ.setdefault("ZSQ_PLUGINS", "-report")

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def torchvision() -> Any:
    """torchvision, also where it was built for another torch than the one here: two operations that it looks for are declared.

    Only box filtering uses them; no classifier does.
    """
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed (make setup)")
    try:
        import torchvision
    except RuntimeError:
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        operations = torch.library.Library("torchvision", "DEF")
        operations.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operations.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision._declared = operations  # as long as it lives, so do they
    return torchvision


@pytest.fixture(scope="session")
def timm(torchvision: Any) -> Any:
    """timm, which imports torchvision."""
    return pytest.importorskip("timm", reason="timm is not installed (make setup)")


@pytest.fixture(scope="session")
def transformers(torchvision: Any) -> Any:
    """transformers, which imports torchvision where it finds it."""
    return pytest.importorskip("transformers", reason="transformers is not installed (make setup)")
