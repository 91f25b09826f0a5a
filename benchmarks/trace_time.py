"""Time until a network's graph is there, imports of the tracer included: recorded by running it, and by ``torch.export``.

    python benchmarks/trace_time.py [--repeats 5] [--write]

Every figure is of a process of its own, in which torch is imported and the network built before the clock starts, as in a run;
both ways in turn, so their ratio holds on a noisy machine. ``--write`` records the figures under ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import subprocess
import sys
import time
from typing import Any

from records import keep, spread

#: Networks of the zoo: module, what builds it, and the shape of its inputs.
NETWORKS = {
    "resnet20": ("zsq_zoo.resnet", "resnet20", (3, 32, 32)),
    "litedet": ("zsq_zoo.litedet", "LiteDet", (3, 240, 320)),
    "litelab": ("zsq_zoo.litelab", "LiteLab", (3, 192, 256)),
}
WAYS = ("recorded", "exported")


def once(name: str, way: str) -> float:
    """Seconds of one trace, in this process."""
    import torch

    from zsq.graph._recording import record
    from zsq.graph._tracing import export

    module, build, shape = NETWORKS[name]
    network, example = getattr(importlib.import_module(module), build)().eval(), torch.zeros(2, *shape)
    start = time.perf_counter()
    program = (record if way == "recorded" else export)(network, example)
    seconds = time.perf_counter() - start
    if program is None:
        sys.exit(f"{name} cannot be recorded")
    return seconds


def measure(name: str, repeats: int) -> dict[str, Any]:
    """Medians over the repetitions, and the median of the ratio."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            words = [sys.executable, __file__, "--once", name, way]
            times[way].append(float(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout))
    ratios = [fast / slow for fast, slow in zip(times["recorded"], times["exported"], strict=True)]
    return {"network": name, **{f"{way}_s": statistics.median(times[way]) for way in WAYS}, **spread(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="record under benchmarks/results")
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(once(*options.once))
        return
    rows = []
    for name in NETWORKS:
        rows.append(row := measure(name, options.repeats))
        print(
            f"{name:10} recorded in {row['recorded_s']:.3f} s, exported in {row['exported_s']:.2f} s, "
            f"ratio {row['ratio']:.3f} ({row['ratio_min']:.3f} to {row['ratio_max']:.3f})"
        )
    if options.write:
        keep("trace_time", "zoo", rows=rows)


if __name__ == "__main__":
    main()
