"""``zsq push``: a run folder to a store, the Hub where none is named."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from zsq._api.saved import SavedRun
from zsq.errors import PlanError, ZsqError

if TYPE_CHECKING:
    from zsq._plan import Plan
    from zsq.protocols import Published


def push_run(
    run: Path,
    place: str,
    *,
    private: bool | None = None,
    dry_run: Path | None = None,
    base_model: str | None = None,
    license: str | None = None,
    dataset: str | None = None,
    verify: bool = True,
    json: bool = False,
) -> None:
    """Publish, or write what would be published, and say where it is."""
    from zsq_cli import render

    done = SavedRun(run).push(
        place, private=private, dry_run=dry_run, base_model=base_model, license=license, dataset=dataset, verify=verify
    )
    if json:
        render.print_json({"url": done.url, "commit": done.commit, "files": list(done.files)})
    else:
        render.console().print(said(done), soft_wrap=True)


def ready(place: str, plan: Plan) -> None:
    """Fail before a run what would fail after it.

    Raises:
        ZsqError: When nobody may push there, or the run would save nothing that can be loaded again.
    """
    from zsq._api.stores import store

    if "safetensors" not in [choice.name for choice in plan.exporters]:
        asked = " ".join(f"--export {choice.name}" for choice in plan.exporters)
        raise PlanError(
            "a run without model.safetensors cannot be pushed: nobody could load it from the Hub", asked, "add --export safetensors"
        )
    found, rest = store(place)
    found.ready(rest)


def publish_finished(run: Path, place: str, private: bool | None = None) -> Published:
    """Publish at the end of a run, which stays where it is when this fails: the way on is to push it, not to run again."""
    try:
        return SavedRun(run).push(place, private=private)
    except ZsqError as error:
        what = f"{error.what}; the run is finished, but not published"
        raise type(error)(what, error.where, f"when that is mended: zsq push {shlex.quote(str(run))} {place}") from error


def said(done: Published) -> str:
    """The same as a line."""
    return f"{done.url} at {done.commit}" if done.commit else f"{done.url}: {len(done.files)} files, nothing was published"
