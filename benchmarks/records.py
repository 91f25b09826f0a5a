"""What benchmarks have in common: the ratios of a row, and where records are kept, of which ``collect.py`` makes RESULTS.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zsq._run.report import hardware

RECORDS = Path(__file__).parent / "results"


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """The median of the ratios, and how far they reach."""
    return {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def keep(benchmark: str, name: str, **facts: Any) -> None:
    """Write ``BENCHMARK-NAME.json``: the facts, and the machine they were measured on."""
    record = {"benchmark": benchmark, **facts, "hardware": hardware()}
    (RECORDS / f"{benchmark}-{name}.json").write_text(json.dumps(record, indent=1) + "\n")
