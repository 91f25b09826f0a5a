"""``zsq push``: a run folder to a store, the Hub where none is named."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._manager import Manager
from zsq.errors import PlanError, ZsqError

if TYPE_CHECKING:
    from zsq._plan import Plan
    from zsq.protocols import Published

#: Exporters whose files have to verify, the one that the card tells of last.
_EXPORTED = {"openvino": "model.xml", "onnx": "model.onnx"}


def push_run(
    run: Path,
    repo: str,
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

    done = publish(run, repo, private=private, dry_run=dry_run, base_model=base_model, license=license, dataset=dataset, verify=verify)
    if json:
        render.print_json({"url": done.url, "commit": done.commit, "files": list(done.files)})
    else:
        render.console().print(said(done), soft_wrap=True)


def publish(run: Path, repo: str, *, dataset: str | None = None, verify: bool = True, **options: Any) -> Published:
    """What became of it; ``options`` as ``push`` of :class:`zsq.protocols.Store` has them.

    Raises:
        ZsqError: When the run holds an exported file which does not compute what was evaluated, unless ``verify`` is off.
    """
    from zsq._run.places import store
    from zsq._run.proof import proven
    from zsq_cli.run import read_report

    for to, file in _EXPORTED.items() if verify and (run / "model.safetensors").is_file() else ():
        if (run / file).is_file() and not _verifies(run, to):
            raise ZsqError(
                f"{file} does not verify, so nothing was published", str(run), f"see `zsq verify --to {to}`, or push with --no-verify"
            )
    found, place = store(repo)
    return found.push(run, place, dataset=dataset or measured_on(run, read_report(run)), proof=proven(run), **options)


def _verifies(run: Path, to: str) -> bool:
    """By what `zsq verify` found before, where that is about this very file; else it is done now."""
    from zsq._run.proof import proven

    proof = proven(run) or {}
    if proof.get("exported") == to and proof.get("verified"):
        return True
    from zsq_cli.verify import verified

    return bool(verified(run, to)["verified"])


def ready(repo: str, plan: Plan) -> None:
    """Fail before a run what would fail after it.

    Raises:
        ZsqError: When nobody may push there, or the run would save nothing that can be loaded from the Hub.
    """
    if "safetensors" not in [choice.name for choice in plan.exporters]:
        asked = " ".join(f"--export {choice.name}" for choice in plan.exporters)
        raise PlanError(
            "a run without model.safetensors cannot be pushed: nobody could load it from the Hub", asked, "add --export safetensors"
        )
    from zsq._run.places import store

    found, place = store(repo)
    found.ready(place)


def publish_finished(run: Path, repo: str, private: bool | None = None) -> Published:
    """The same at the end of a run, which stays where it is when this fails: the way on is to push it, not to run again."""
    try:
        return publish(run, repo, private=private)
    except ZsqError as error:
        what = f"{error.what}; the run is finished, but not published"
        raise type(error)(what, error.where, f"when that is mended: zsq push {shlex.quote(str(run))} {repo}") from error


def said(done: Published) -> str:
    """The same as a line."""
    return f"{done.url} at {done.commit}" if done.commit else f"{done.url}: {len(done.files)} files, nothing was published"


def measured_on(run: Path, report: Mapping[str, Any]) -> str | None:
    """The name of the images that the run measured accuracy on: that of their file, or None where they cannot be told."""
    refs = [str(entry.get("ref") or "") for entry in report.get("recipe", {}).get("eval") or ()]
    if not any(refs) and str(report["teacher"]["ref"]).startswith("zoo:"):
        from zsq.format import load
        from zsq_cli.run import brought, saved_context

        try:
            refs = [brought(report, Manager.discover(), saved_context(run, load(run), report)).partition(":")[2]]
        except ZsqError:
            return None
    named = [Path(ref).stem for ref in refs if ref]
    return named[0] if len(named) == 1 else None
