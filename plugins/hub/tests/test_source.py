"""The teacher source and the store keep the contracts of all sources and stores."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback import Loopback
from zsq_hub.push import push

from zsq.testing import conformance


@pytest.fixture(autouse=True)
def pushed(hub: Loopback, run: Path) -> None:
    push(run, "org/tiny")


test_source = conformance("hub", role="teacher", ref="org/tiny")
test_store = conformance("hub", role="store", ref="org/tiny")
