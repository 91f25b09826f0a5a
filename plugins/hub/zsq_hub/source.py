"""The teacher source ``hub``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zsq
from zsq.errors import FileError
from zsq.options import InputOptions
from zsq.teachers import teacher_from
from zsq.types import Context, Teacher
from zsq_hub.fetch import fetch
from zsq_hub.readers import Repository, library_of, reader


class Hub:
    """Loads ``hub:ORG/NAME[@REVISION]``: a zsq student, or a network of a library that an installed plugin reads.

    ``fetch`` and ``push`` are what the command line and ``zsq.load`` use.
    """

    def __init__(self, options: InputOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def load(self, ref: str) -> Teacher:
        """The network as a teacher; its reference names the commit, so that a recipe made with it stays the same.

        Raises:
            HubError, FileError: As :func:`zsq_hub.fetch.fetch`, or when its files are damaged.
            ComponentError: When it is of a library that no installed plugin reads.
        """
        repository = Repository.open(ref)
        if (library := library_of(repository.config)) != "zsq":
            return reader(library, repository.ref)(repository, self.options, self.ctx)
        spec = repository.config.get("inputs")
        if not isinstance(spec, dict):
            raise FileError("the student does not say what its inputs are", repository.ref, "it was saved without an input spec")
        module = zsq.load(fetch(f"{repository.name}@{repository.commit}"))
        return teacher_from(module, repository.ref, self.options.over(spec), None, where=repository.ref, license=repository.license())

    @staticmethod
    def fetch(place: str, revision: str | None = None, *, exported: bool = False) -> Path:
        """The folder of a student; see :func:`zsq_hub.fetch.fetch`."""
        return fetch(place, revision, exported=exported)

    @staticmethod
    def ready(repo: str) -> None:
        """Fail early where a push will; see :func:`zsq_hub.push.ready`."""
        from zsq_hub.push import ready

        ready(repo)

    @staticmethod
    def proven(run: Path) -> dict[str, Any] | None:
        """What `zsq verify` said of the exported file in a run; see :func:`zsq_hub.push.proven`."""
        from zsq_hub.push import proven

        return proven(run)

    @staticmethod
    def push(run: Path, repo: str, **options: Any) -> Any:
        """Publish a run; see :func:`zsq_hub.push.push`."""
        from zsq_hub.push import push

        return push(run, repo, **options)
