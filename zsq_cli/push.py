"""``zsq push``: a run folder to the Hub, through the plugin ``hub``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._component import Role
from zsq._manager import Manager
from zsq.errors import PlanError, ZsqError

if TYPE_CHECKING:
    from zsq._plan import Plan

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


def publish(run: Path, repo: str, *, dataset: str | None = None, verify: bool = True, **options: Any) -> Any:
    """What became of it: ``url``, ``commit`` and ``files``; see ``zsq_hub.push.push``.

    Raises:
        ZsqError: When the run holds an exported file which does not compute what was evaluated, unless ``verify`` is off.
    """
    from zsq._api.saved import read_report

    for to, file in _EXPORTED.items() if verify and (run / "model.safetensors").is_file() else ():
        if (run / file).is_file() and not _verifies(run, to):
            raise ZsqError(
                f"{file} does not verify, so nothing was published", str(run), f"see `zsq verify --to {to}`, or push with --no-verify"
            )
    return hub().push(run, repo, dataset=dataset or measured_on(run, read_report(run)), **options)


def _verifies(run: Path, to: str) -> bool:
    """By what `zsq verify` found before, where that is about this very file; else it is done now."""
    proof = hub().proven(run) or {}
    if proof.get("exported") == to and proof.get("verified"):
        return True
    from zsq._api.saved import SavedRun

    return bool(SavedRun(run).verify(to)["verified"])


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
    hub().ready(repo)


def publish_finished(run: Path, repo: str, private: bool | None = None) -> Any:
    """The same at the end of a run, which stays where it is when this fails: the way on is to push it, not to run again."""
    try:
        return publish(run, repo, private=private)
    except ZsqError as error:
        what = f"{error.what}; the run is finished, but not published"
        raise type(error)(what, error.where, f"when that is mended: zsq push {shlex.quote(str(run))} {repo}") from error


def said(done: Any) -> str:
    """The same as a line."""
    return f"{done.url} at {done.commit}" if done.commit else f"{done.url}: {len(done.files)} files, nothing was published"


def hub() -> Any:
    """What the plugin ``hub`` offers.

    Raises:
        ComponentError: When it is not installed or broken.
    """
    return Manager.discover().get(Role.TEACHER, "hub").component.implementation()


def measured_on(run: Path, report: Mapping[str, Any]) -> str | None:
    """The name of the images that the run measured accuracy on: that of their file, or None where they cannot be told."""
    refs = [str(entry.get("ref") or "") for entry in report.get("recipe", {}).get("eval") or ()]
    if not any(refs) and str(report["teacher"]["ref"]).startswith("zoo:"):
        from zsq._api.saved import SavedRun

        try:
            refs = [SavedRun(run).brought().partition(":")[2]]
        except ZsqError:
            return None
    named = [Path(ref).stem for ref in refs if ref]
    return named[0] if len(named) == 1 else None
