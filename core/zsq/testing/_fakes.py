"""Writes fake distributions (a package and its dist-info) into a folder, to test discovery without installing anything."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

from zsq._component import GROUP


@dataclass(frozen=True)
class FakeDist:
    """A distribution in the folder ``path``; put the folder on ``PYTHONPATH``, or hand ``distribution`` to ``Manager.discover``."""

    name: str
    path: Path
    distribution: Distribution


def write_fake_dist(
    path: Path,
    name: str = "zsq-fake",
    source: str = "",
    *,
    module: str = "",
    files: Mapping[str, str] | None = None,
    entry_points: Mapping[str, str] | None = None,
    group: str = GROUP,
    version: str = "0.1.0",
    requires: tuple[str, ...] = ("zsq>=0.1",),
) -> FakeDist:
    """Write a distribution into ``path``.

    Args:
        path: A folder, made when absent; several distributions may share one.
        name: Of the distribution.
        source: Its entry module.
        module: Name of the entry module; the distribution's name with underscores by default.
        files: Further files of the package: relative path to text.
        entry_points: Entry-point name to object; ``{"fake": "zsq_fake"}`` by default for ``zsq-fake``.
        group: Of the entry points.
        version: Of the distribution.
        requires: Of its metadata.
    """
    module = module or name.replace("-", "_")
    points = {name.removeprefix("zsq-"): module} if entry_points is None else entry_points
    package = path / module
    for file, text in {"__init__.py": source, **(files or {})}.items():
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(textwrap.dedent(text))
    info = path / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items()))
    record = [f"{p.relative_to(path).as_posix()},," for folder in (package, info) for p in sorted(folder.rglob("*")) if p.is_file()]
    (info / "RECORD").write_text("\n".join([*record, f"{info.name}/RECORD,,"]) + "\n")
    (info / "INSTALLER").write_text("zsq-testing\n")
    return FakeDist(name, path, PathDistribution(info))
