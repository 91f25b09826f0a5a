"""Shared set-up of every test in the repository."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

# Tiny networks gain nothing from threads, and lose minutes when something else keeps the cores busy. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of runs need no page each; its own tests ask for theirs.
os.environ.setdefault("ZSQ_PLUGINS", "-report")

# Hundreds of tests start a process: each would compile every module again where no bytecode is written.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

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


@pytest.fixture(scope="session")
def exported_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, int], Path]:
    """``exported_run(exporter, scheme, bits)``: the folder of a run of the tiny teacher, with the exporter's files; made once."""
    from zsq_cli.app import main

    folder = tmp_path_factory.mktemp("exported")

    @cache
    def made(exporter: str, scheme: str, bits: int) -> Path:
        out = folder / f"{exporter}-{scheme}{bits}"
        sets = [f"quant.scheme={scheme}", "teacher.shape=3,8,8", "teacher.mean=0,0,0", "teacher.std=1,1,1", "run.batch_size=8"]
        words = ["run", "py:zsq.testing.teachers:tiny", "--synth", "noise", "--quant", f"uniform{bits}", "--calib", "minmax"]
        assert main([*words, "--tune", "none", "--out", str(out), *(w for s in sets for w in ("--set", s))]) == 0
        assert main(["export", str(out), "--to", exporter]) == 0
        return out

    return made
