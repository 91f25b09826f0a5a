"""``zsq push``: a run folder to the Hub, through the plugin ``hub``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsq.component import Role
from zsq.errors import ZsqError
from zsq.manager import Manager


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
    from zsq_cli.run import read_report

    if verify and (run / "model.onnx").is_file():
        from zsq_cli.verify import verified

        if not verified(run)["verified"]:
            raise ZsqError("model.onnx does not verify, so nothing was published", str(run), "see `zsq verify`, or push with --no-verify")
    return hub().push(run, repo, dataset=dataset or measured_on(run, read_report(run)), **options)


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
        from zsq.run.saved import load
        from zsq_cli.run import brought, saved_context

        try:
            refs = [brought(report, Manager.discover(), saved_context(run, load(run), report)).partition(":")[2]]
        except ZsqError:
            return None
    named = [Path(ref).stem for ref in refs if ref]
    return named[0] if len(named) == 1 else None
