"""Speed of exported students beside their float32 teachers, in the same runtime, on a quiet machine.

    python benchmarks/export_speed.py RUN [RUN ...] [--to onnx --to openvino] [--threads 1] [--write NAME]

Each run is timed several times as ``zsq bench`` does it, teacher and student in turns; the median of the speed-ups is kept.
``--write`` records the figures under ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from records import keep

from zsq import SavedRun


def measure(run: Path, to: str, threads: int, batch: int, repeats: int) -> dict[str, Any]:
    """Medians over the repetitions; the file is written again."""
    saved = SavedRun(run)
    report, student = saved.report, saved.saved_student
    saved.export(to)
    results = [saved.bench(to, threads, batch) for _ in range(repeats)]
    last = results[-1]
    bits = [report["student"][key] for key in ("weight_bits", "act_bits")]
    row = {"teacher": report["teacher"]["ref"], "bits": f"W{bits[0]}A{bits[1]}", "scheme": student.scheme}
    row |= {key: last[key] for key in ("runtime", "isa", "threads", "batch")}
    for name in ("teacher", "student"):
        row |= {f"{name}_{key}": statistics.median(r[name][key] for r in results) for key in ("latency_ms", "images_per_s", "size_bytes")}
    row |= {"integer": len(last["integer"]), "floating": len(last["floating"]), "islands": len(last["islands"])}
    speedups = [r["speedup"] for r in results if r["speedup"] is not None]
    most = [r["student"]["images_per_s"] / r["teacher"]["images_per_s"] for r in results if r["speedup"] is not None]
    row["speedup"] = statistics.median(speedups) if speedups else None
    row["speedup_batch"] = statistics.median(most) if most else None
    return {**row, "speedup_min": min(speedups, default=None), "speedup_max": max(speedups, default=None)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--to", action="append", help="exporter; repeat (default: onnx and openvino)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", metavar="NAME", help="record under benchmarks/results")
    options = parser.parse_args()
    rows = []
    for run in options.runs:
        for to in options.to or ["onnx", "openvino"]:
            rows.append(measure(run, to, options.threads, options.batch, options.repeats))
            print(json.dumps(rows[-1]), flush=True)
    if options.write:
        keep("export_speed", options.write, rows=rows)


if __name__ == "__main__":
    main()
