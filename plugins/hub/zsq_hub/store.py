"""The store ``hub``: publishes students on the Hugging Face Hub and fetches them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsq.options import Options
from zsq.protocols import Published
from zsq.types import Context
from zsq_hub import push
from zsq_hub.fetch import fetch


class HubStore:
    """Students at ``hub:ORG/NAME[@REVISION]``."""

    def __init__(self, options: Options, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def fetch(self, place: str, revision: str | None = None, *, exported: bool = False) -> Path:
        """The folder of a student; see :func:`zsq_hub.fetch.fetch`."""
        return fetch(place, revision, exported=exported)

    def ready(self, place: str) -> None:
        """Check that a push is possible; see :func:`zsq_hub.push.ready`."""
        push.ready(place)

    def push(self, run: Path, place: str, *, private: bool | None = None, dry_run: Path | None = None, base_model: str | None = None,
             license: str | None = None, dataset: str | None = None, proof: Mapping[str, Any] | None = None) -> Published:  # fmt: skip
        """Publish a run; see :func:`zsq_hub.push.push`."""
        return push.push(run, place, private=private, dry_run=dry_run, base_model=base_model, license=license, dataset=dataset, proof=proof)
