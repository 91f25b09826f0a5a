"""A Hub on this machine, the client pointed at it, and a small finished run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http as client
from huggingface_hub.utils import _xet

from zsq_cli.app import main

sys.path.insert(0, str(Path(__file__).parent))

from loopback import TOKEN, Loopback


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """The real client talks to it, logged in, with an empty cache, and waits for nothing between two tries."""
    with Loopback() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
        client.close_session()
        yield server
        client.close_session()


@pytest.fixture
def xet(hub: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """The same, with large files in the Xet store: what the client does by itself where ``hf_xet`` is installed."""
    pytest.importorskip("hf_xet", reason="hf_xet is not installed")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "5ms")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "2")
    monkeypatch.setattr(_xet, "_GLOBAL_XET_HOLDER", _xet.XetSessionHolder())
    return hub


@pytest.fixture(params=["lfs", "xet"])
def store(request: pytest.FixtureRequest, hub: Loopback) -> Loopback:
    """The Hub with large files in either store."""
    if request.param == "xet":
        request.getfixturevalue("xet")
    return hub


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty real images of the tiny teacher's size."""
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("images") / "tiny-val.npz"
    np.savez(file, images=rng.integers(0, 256, (20, 8, 8, 3), np.uint8), labels=rng.integers(0, 4, 20))
    return file


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A finished W4A4 run of the tiny teacher, measured on ``images``."""
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", images, 0)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """The same with another seed."""
    return make_run(tmp_path_factory.mktemp("runs") / "other", images, 1)


def make_run(folder: Path, images: Path, seed: int) -> Path:
    words = ["run", "py:zsq.testing.teachers:tiny", "--synth", "noise", "--quant", "uniform4", "--calib", "minmax", "--tune", "none"]
    spec = ["teacher.shape=3,8,8", "teacher.mean=0.5,0.5,0.5", "teacher.std=0.2,0.2,0.2", "calib.batches=1", "run.batch_size=8"]
    sets = [word for value in spec for word in ("--set", value)]
    assert main([*words, *sets, "--seed", str(seed), "--eval", f"npz:{images}", "--out", str(folder)]) == 0
    return folder
