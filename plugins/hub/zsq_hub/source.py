"""The teacher source ``hub``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import zsq
from zsq.builtin.teachers import teacher_from
from zsq.errors import FileError
from zsq.options import Options
from zsq.types import Context, Teacher
from zsq_hub.fetch import fetch, split


class Hub:
    """Loads ``hub:ORG/NAME[@REVISION]``, a zsq student; ``fetch`` and ``push`` are what the command line and ``zsq.load`` use."""

    def __init__(self, options: Options, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def load(self, ref: str) -> Teacher:
        """The student as a teacher; its reference names the commit, so that a recipe made with it stays the same.

        Raises:
            HubError, FileError: As :func:`zsq_hub.fetch.fetch`, or when its files are damaged.
        """
        repo, _ = split(ref)
        folder = fetch(ref)
        where = f"hub:{repo}@{folder.name}"
        module = zsq.load(folder)
        spec = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("inputs")
        if not isinstance(spec, dict):
            raise FileError("the student does not say what its inputs are", where, "it was saved without an input spec")
        return teacher_from(module, where, spec, None, where=where)

    @staticmethod
    def fetch(place: str, revision: str | None = None) -> Path:
        """The folder of a student; see :func:`zsq_hub.fetch.fetch`."""
        return fetch(place, revision)

    @staticmethod
    def ready(repo: str) -> None:
        """Fail early where a push will; see :func:`zsq_hub.push.ready`."""
        from zsq_hub.push import ready

        ready(repo)

    @staticmethod
    def push(run: Path, repo: str, **options: Any) -> Any:
        """Publish a run; see :func:`zsq_hub.push.push`."""
        from zsq_hub.push import push

        return push(run, repo, **options)
