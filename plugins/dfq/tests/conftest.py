"""Shared by these tests: imports of the networks beside them under importlib mode, and a seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("zsq", deadline=None)  # the first call of a kernel may take long
settings.load_profile("zsq")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
