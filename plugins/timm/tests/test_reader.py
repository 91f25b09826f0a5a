"""The reader keeps the contract of all readers. Whole repositories are read in the tests of zsq-hub."""

from __future__ import annotations

import pytest

from zsq.testing import conformance


@pytest.fixture(autouse=True)
def library(timm: object) -> None:
    """Without the library every repository would be refused for want of it."""


test_timm = conformance("timm", role="reader")
