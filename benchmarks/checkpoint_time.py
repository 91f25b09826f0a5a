"""Share of a run's time that its checkpoints take, at their default interval.

    python benchmarks/checkpoint_time.py [--budget 80s] [--write]

What is timed is all of it: asking whether one is due after every step, gathering the state, writing, syncing and renaming. ``--write``
records the figures under ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from records import keep

from zsq._api.recipes import find_recipe
from zsq._manager import Manager
from zsq._recipe import RunOptions, apply_settings, read_recipe
from zsq._run import checkpoints
from zsq._run.checkpoints import Phases
from zsq._run.engine import run


def main() -> None:
    """Run the demo with a watch on its checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="qimera/demo")
    parser.add_argument("--budget", default="80s", help="time of the run")
    parser.add_argument("--write", action="store_true", help="record under benchmarks/results")
    options = parser.parse_args()
    spent = {"seconds": 0.0, "steps": 0, "written": 0, "largest": 0.0, "bytes": 0}
    for name in ("stepped", "enter"):
        _timed(name, spent)
    write = checkpoints.write_atomic

    def counted(path: Path, content: Any) -> Path:
        spent["written"] += 1
        spent["bytes"] = max(spent["bytes"], len(content))
        return write(path, content)

    checkpoints.write_atomic = counted
    manager = Manager.discover()
    recipe = apply_settings(read_recipe(find_recipe(options.recipe, manager)), [f"run.budget={options.budget}"])
    with tempfile.TemporaryDirectory() as folder:
        report = run(recipe, Path(folder) / "run", manager=manager).report
    facts = {
        "recipe": options.recipe,
        "interval_s": RunOptions().checkpoint,
        "wall_s": report["wall_s"],
        "steps": spent["steps"],
        "checkpoints": spent["written"],
        "bytes": spent["bytes"],
        "seconds": round(spent["seconds"], 4),
        "longest_s": round(spent["largest"], 4),
        "percent_of_wall": round(100 * spent["seconds"] / report["wall_s"], 3),
    }
    print(json.dumps(facts, indent=1))
    if options.write:
        keep("checkpoint_time", options.recipe.replace("/", "-"), **facts)


def _timed(name: str, spent: dict[str, Any]) -> None:
    """Time a method of the journal; of ``enter`` no checkpoint that is gone on from is part here."""
    inner = getattr(Phases, name)

    def method(self: Phases, *given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return inner(self, *given, **named)
        finally:
            seconds = time.perf_counter() - began
            spent["seconds"] += seconds
            spent["largest"] = max(spent["largest"], seconds)
            spent["steps"] += name == "stepped"

    setattr(Phases, name, method)


if __name__ == "__main__":
    main()
