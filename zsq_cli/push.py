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
    json: bool = False,
) -> None:
    """Publish, or write what would be published, and say where it is."""
    from zsq_cli import render
    from zsq_cli.run import read_report

    hub = Manager.discover().get(Role.TEACHER, "hub").component.implementation()
    report = read_report(run)
    done = hub.push(
        run,
        repo,
        private=private,
        dry_run=dry_run,
        base_model=base_model,
        license=license,
        dataset=dataset or measured_on(run, report),
    )
    if json:
        render.print_json({"url": done.url, "commit": done.commit, "files": list(done.files)})
    else:
        said = f"{done.url} at {done.commit}" if done.commit else f"{done.url}: {len(done.files)} files, nothing was published"
        render.console().print(said, soft_wrap=True)


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
