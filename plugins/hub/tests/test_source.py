"""The teacher source keeps the contract of all sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback import Loopback
from zsq_hub.push import push

from zsq.testing import conformance


@pytest.fixture(autouse=True)
def pushed(hub: Loopback, run: Path) -> None:
    push(run, "org/tiny")


test_hub = conformance("hub", ref="org/tiny")
