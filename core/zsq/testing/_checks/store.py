"""Checks for stores. None of them needs a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from zsq.protocols import Published, Store
from zsq.testing import _exercise as exercise
from zsq.testing._kit import Case, Skip


def check_it_is_a_store(case: Case) -> None:
    """It implements the protocol."""
    assert isinstance(case.build(case.context()), Store), "it lacks one of fetch, ready and push"


def check_a_place_that_is_none_is_refused(case: Case) -> None:
    """Nothing can be fetched from, or published to, a place without a name."""
    run = _run(case)
    store = case.build(case.context())
    for place in exercise.INVALID_ADDRESSES:
        exercise.refused(f"fetch({place!r})", store.fetch, place)
        exercise.refused(f"ready({place!r})", store.ready, place)
        exercise.refused(f"push(run, {place!r})", store.push, run, place, dry_run=case.folder / "dry")
    assert not (case.folder / "dry").exists(), "a push that was refused wrote something"


def check_an_unfinished_run_is_refused(case: Case) -> None:
    """A folder without a finished run is not published."""
    (empty := case.folder / "empty").mkdir()
    push = _dry_push(case)
    exercise.refused("push of an empty folder", push, empty)
    part = _run(case)
    (part / "model.safetensors").unlink()
    exercise.refused("push of a run without its weights", push, part)


def check_a_dry_run_writes_what_would_be_published(case: Case) -> None:
    """It writes a new folder that says what would be there, and publishes nothing."""
    done = _dry_push(case)(_run(case))
    assert done.commit is None, f"a dry run has the commit {done.commit!r}"
    assert done.files, "it names no file"
    assert all((case.folder / "dry" / name).is_file() for name in done.files), f"it names files that it did not write: {done.files}"


def _dry_push(case: Case) -> Callable[[Path], Published]:
    if not case.ref:
        raise Skip("nowhere to publish to: call conformance with ref=, a place of this store")
    store = case.build(case.context())
    return partial(store.push, place=case.ref, dry_run=case.folder / "dry")


def _run(case: Case) -> Path:
    """The folder of a small finished run."""
    from zsq.testing._chains import tiny_run

    folder = case.folder / "run"
    shutil.rmtree(folder, ignore_errors=True)
    sections: dict[str, Any] = {"tune": "none", "quant": "uniform8"}
    tiny_run(sections, folder=folder, manager=case.manager)
    return folder
