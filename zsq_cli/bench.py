"""``zsq bench``: teacher and student in the same runtime, and no speed-up where there is none to speak of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zsq._api.saved import SavedRun
from zsq_cli.export import BELOW_8_BITS


def bench_run(place: Path, to: str, threads: int, batch: int, *, json: bool = False) -> None:
    """Measure and print."""
    from zsq_cli import render

    result = SavedRun.open(place, exported=True).bench(to, threads, batch)
    if json:
        render.print_json(result)
        return
    rows = [(name, *_cells(result[name])) for name in ("teacher", "student")]
    out = render.console()
    out.print(render.table(rows, "", "latency, batch 1", f"images/s, batch {result['batch']}", "bytes"))
    out.print(f"{result['runtime']}, threads {result['threads']}, {result['isa']}, medians")
    if result["speedup"] is not None:
        out.print(f"speed-up {result['speedup']:.2f}x; all {len(result['integer'])} layers are integer")
    else:
        what, found = ("layers", result["floating"]) if result["floating"] else ("operations between layers", result["islands"])
        names = ", ".join(found[:3]) + ("…" if len(found) > 3 else "")
        out.print(f"no speed-up: {len(found)} {what} calculate in float ({names})", soft_wrap=True)
        if result["scheme"] == "paper":
            out.print("scheme 'paper' is not integer from end to end: quantize with --set quant.scheme=deploy", soft_wrap=True)
    if result["below_8_bits"]:
        out.print(BELOW_8_BITS, soft_wrap=True)


def _cells(row: dict[str, Any]) -> tuple[str, str, str]:
    return f"{row['latency_ms']:.3g} ms", f"{row['images_per_s']:.4g}", str(row["size_bytes"])
