"""Where benchmarks keep what they measured; ``collect.py`` makes RESULTS.md of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zsq.run.report import hardware

RECORDS = Path(__file__).parent / "results"


def keep(benchmark: str, name: str, **facts: Any) -> None:
    """Write ``BENCHMARK-NAME.json``: the facts, and the machine they were measured on."""
    record = {"benchmark": benchmark, **facts, "hardware": hardware()}
    (RECORDS / f"{benchmark}-{name}.json").write_text(json.dumps(record, indent=1) + "\n")
