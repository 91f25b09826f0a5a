"""RESULTS.md says what the records say, and nothing else."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_results_are_current() -> None:
    render = runpy.run_path(str(ROOT / "benchmarks" / "collect.py"))["render"]
    assert (ROOT / "RESULTS.md").read_text() == render(), "run python benchmarks/collect.py"
