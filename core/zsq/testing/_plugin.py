"""The pytest plugin that comes with zsq. Pytest imports it everywhere, so nothing heavy is imported before a fixture is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zsq._manager import Manager
    from zsq.testing._fakes import FakeDist
    from zsq.types import Teacher

pytest.register_assert_rewrite("zsq.testing._checks")


@pytest.fixture
def tiny_teacher() -> Teacher:
    """A small trained-like network: BatchNorm, depthwise convolution, residual sum, functional and module ReLU; 3 x 8 x 8, 4 classes."""
    from zsq.testing.world import make_teacher

    return make_teacher()


@pytest.fixture
def zsq_manager(request: pytest.FixtureRequest) -> Manager:
    """A manager that sees the built-ins only.

    ``@pytest.mark.parametrize("zsq_manager", [["NAME"]], indirect=True)`` names plugins that it sees as well.
    """
    from zsq._manager import Manager

    names = getattr(request, "param", ())
    return Manager.discover(only=list(names)) if names else Manager.discover(third_party=False)


@pytest.fixture
def fake_dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeDist]]:
    """``fake_dist(name, source, ...)`` writes a distribution into a temporary folder, importable in the test and its subprocesses.

    Arguments as in ``zsq.testing.write_fake_dist``. All distributions of one test share one folder, the ``path`` of each.
    """
    from zsq.testing._fakes import write_fake_dist

    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
    before = set(sys.modules)

    def write(*values: Any, **named: Any) -> FakeDist:
        return write_fake_dist(folder, *values, **named)

    yield write
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(folder):
            del sys.modules[name]
