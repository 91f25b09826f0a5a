"""``zsq plugins check``: the conformance kit on components, plugins, and plugin folders, as one table."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from zsq._manager import Manager
from zsq._plugin import Found, Plugin
from zsq.errors import ComponentError, FileError, ZsqError
from zsq_cli import render
from zsq_cli.plugins import find

#: Component or folder, check, ``passed`` / ``failed`` / ``skipped``, reason.
Row = tuple[str, str, str, str]
Job = Found | Plugin | Path


def check_plugins(names: Sequence[str], *, everything: bool = False, json: bool = False) -> int:
    """Check every name and print the results; returns 1 if a check failed."""
    if not names and not everything:
        raise ZsqError("nothing to check", "", "zsq plugins check NAME, a plugin's folder, or --all")
    manager = Manager.discover()
    jobs = list(_jobs(manager, names, everything))
    out, rows = render.console(), list[Row]()
    for job in jobs:
        done = list(_check(manager, job))
        rows += done
        if not json:
            out.print(render.check_table(done))
    if json:
        render.print_json([dict(zip(("name", "check", "result", "reason"), row, strict=True)) for row in rows])
    counts = Counter(row[2] for row in rows)
    if not json:
        summary = ", ".join(f"{counts[result]} {result}" for result in ("passed", "failed", "skipped") if counts[result])
        out.print(summary or "no checks", style="bold red" if counts["failed"] else "bold green")
    return 1 if counts["failed"] or not rows else 0


def _jobs(manager: Manager, names: Sequence[str], everything: bool) -> Iterator[Job]:
    """The folders, plugins and components that the names mean."""
    if everything:
        yield from (plugin for plugin in manager.plugins() if plugin.status == "broken")
        yield from manager.components()
    for name in names:
        plugin = next((p for p in manager.plugins() if p.name == name), None)
        if Path(name).is_dir() and ("/" in name or not plugin):
            yield from [Path(name)] if _tests(Path(name)) else _installed(manager, Path(name))
        elif plugin is not None and plugin.status != "ok":
            raise ComponentError(f"plugin '{name}' is {plugin.status}", plugin.distribution, plugin.reason)
        elif plugin is not None:
            yield from plugin.components
        else:
            yield find(manager, name)


def _tests(folder: Path) -> Path | None:
    """The tests folder of a plugin folder; None if there is none."""
    tests = folder / "tests" if (folder / "tests").is_dir() else folder
    return tests if any(tests.rglob("test_*.py")) else None


def _installed(manager: Manager, folder: Path) -> Iterator[Found]:
    """The components of an installed plugin whose folder has no tests."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        distribution = str(project["name"])
    except FileNotFoundError:
        raise FileError(f"'{folder}' is not a plugin's folder", "", "it has no pyproject.toml") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"'{folder}/pyproject.toml' names no project: {error}", "", "it has a table [project] with a `name`") from error
    plugins = [plugin for plugin in manager.plugins() if _plain(plugin.distribution) == _plain(distribution)]
    if not plugins:
        raise FileError(f"'{folder}' holds no tests, and {distribution} is not installed", "", f"zsq plugins install {_as_folder(folder)}")
    render.console(error=True).print(f"'{folder}' holds no tests: checking what {distribution} provides, as it is installed")
    for plugin in plugins:
        if plugin.status != "ok":
            raise ComponentError(f"plugin '{plugin.name}' is {plugin.status}", plugin.distribution, plugin.reason)
        yield from plugin.components


def _plain(name: str) -> str:
    """The normalised name of a distribution, for comparisons."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _as_folder(folder: Path) -> str:
    return str(folder) if folder.is_absolute() else f"./{folder}"


def _check(manager: Manager, job: Job) -> Iterator[Row]:
    if isinstance(job, Path):
        yield from _check_folder(job)
    elif isinstance(job, Plugin):
        yield job.name, "loads", "failed", job.reason
    else:
        yield from _check_component(manager, job)


def _check_component(manager: Manager, found: Found) -> Iterator[Row]:
    from zsq.testing import check_component

    label = f"{found.role.value}/{found.preset or found.component.name}"
    for outcome in check_component(manager, found):
        yield label, outcome.check.removeprefix("check_"), outcome.result, _first_line(outcome.reason)


def _check_folder(folder: Path) -> Iterator[Row]:
    """Run the folder's own tests in a new process."""
    tests = _tests(folder)
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        flags = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", f"--junitxml={report}"]
        done = subprocess.run([sys.executable, "-m", "pytest", *flags, str(tests)], capture_output=True, text=True, check=False)
        if not report.is_file():
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise ZsqError("pytest did not run", str(tests), lines[-1] if lines else "pip install 'zsq[testing]'")
        cases = list(ElementTree.parse(report).iter("testcase"))
    for case in cases:
        result, reason = "passed", ""
        for tag, name in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
            if (element := case.find(tag)) is not None:
                result, reason = name, _first_line(element.get("message") or element.text or "")
        yield folder.name, case.get("name") or "", result, reason


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:300] if lines else ""
