"""Components that are asked for by name: by others through their context, and stores by places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from zsq._api.stores import in_store, locate, store
from zsq._manager import Manager
from zsq._run.lookup import plain_context
from zsq.errors import ComponentError, FileError, OptionError
from zsq.testing import FakeDist, world
from zsq.types import Context

SHELF = """
from dataclasses import dataclass
from zsq import Component, Options, hookimpl, opt

@dataclass(frozen=True, kw_only=True)
class ShelfOptions(Options):
    row: int = opt(1, "Which.", ge=1)

@hookimpl
def zsq_stores():
    yield Component("shelf", "zsq_shelf:Shelf", ShelfOptions, "A shelf.", presets={"shelf7": {"row": 7}})

class Shelf:
    def __init__(self, options, ctx):
        self.options, self.ctx = options, ctx
    def fetch(self, place, revision=None, *, exported=False):
        from pathlib import Path
        return Path(f"/{self.options.row}/{place}/{revision}/{exported}")
"""


@pytest.fixture
def manager(fake_dist: Callable[..., FakeDist]) -> Manager:
    return Manager.discover(distributions=[fake_dist("zsq-shelf", SHELF).distribution])


def test_a_component_is_built_with_the_context_of_who_asks(manager: Manager) -> None:
    ctx = world.make_context(Path(), manager=manager).with_(trust_code=True)
    shelf = ctx.find("store", "shelf", {"row": 3})
    assert shelf.ctx is ctx and shelf.options.row == 3
    assert ctx.find("store", "shelf").options.row == 1 and ctx.find("store", "shelf7").options.row == 7
    assert ctx.find("store", "zsq-shelf/shelf7", {"row": 2}).options.row == 2


def test_what_cannot_be_had_is_said(manager: Manager) -> None:
    ctx = world.make_context(Path(), manager=manager)
    with pytest.raises(ComponentError, match="store 'shelv' not found") as error:
        ctx.find("store", "shelv")
    assert "shelf" in error.value.hint
    with pytest.raises(ComponentError, match="reader 'timm' not found") as error:
        ctx.find("reader", "timm")
    assert error.value.hint == "known but not installed: zsq plugins install timm"
    with pytest.raises(OptionError, match="colour"):
        ctx.find("store", "shelf", {"colour": "red"})
    with pytest.raises(OptionError):
        ctx.find("store", "shelf", {"row": 0})


def test_a_bare_context_finds_nothing() -> None:
    plain = plain_context()
    bare = Context(plain.rng, plain.device, plain.precision, None, print)
    with pytest.raises(ComponentError, match="cannot find the reader 'timm'"):
        bare.find("reader", "timm")


def test_a_context_outside_of_a_run(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    ctx = plain_context(manager)
    ctx.log("hello")
    assert capsys.readouterr().err == "hello\n" and ctx.device == torch.device("cpu") and ctx.precision.name == "fp32"
    assert ctx.find("store", "shelf").ctx is ctx


def test_a_place_names_its_store(manager: Manager) -> None:
    found, rest = store("shelf7:a/b:c", manager)
    assert (found.options.row, rest) == (7, "a/b:c")  # type: ignore[attr-defined]
    assert locate("shelf:a/b", "v1", manager=manager) == Path("/1/a/b/v1/False")
    assert locate(Path("shelf7:a"), exported=True, manager=manager) == Path("/7/a/None/True")
    with pytest.raises(ComponentError, match="store 'hub' not found"):
        store("org/name", manager)


def test_a_folder_goes_before_a_store(manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shelf:a").mkdir()
    assert locate("shelf:a", manager=manager) == Path("shelf:a")
    with pytest.raises(FileError, match="is a folder"):
        locate("shelf:a", "v1", manager=manager)
    with pytest.raises(FileError, match="there is no folder 'runs:1', and: store 'runs' not found"):
        locate("runs:1", manager=manager)


def test_how_a_place_is_written() -> None:
    assert [text for text in ("hub:a/b", "zsq-hub/hub:a", "C:/runs", "runs/a", ":a") if in_store(text)] == ["hub:a/b", "zsq-hub/hub:a"]
