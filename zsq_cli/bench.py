"""``zsq bench``: teacher and student in the same runtime, and no speed-up where there is none to speak of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._component import Role
from zsq._manager import Manager
from zsq_cli.export import BELOW_8_BITS, able, saved_student
from zsq_cli.run import read_report

if TYPE_CHECKING:
    from zsq.types import Context, Teacher


def bench_run(run: Path, to: str, threads: int, batch: int, *, json: bool = False) -> None:
    """Measure and print."""
    from zsq._run.places import locate
    from zsq_cli import render

    result = measured(locate(run, exported=True), to, threads, batch)
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
        if result["protocol"] == "paper":
            out.print("protocol 'paper' is not integer from end to end: quantize with --set quant.protocol=deploy", soft_wrap=True)
    if result["below_8_bits"]:
        out.print(BELOW_8_BITS, soft_wrap=True)


def measured(run: Path, to: str = "onnx", threads: int = 1, batch: int = 32) -> dict[str, Any]:
    """Times of both networks as plain values, see ``zsq bench --json``; ``speedup`` is None where the student calculates in float.

    Args:
        run: Folder of a run with an exported file.
        to: The exporter that made the file.
        threads: Of the runtime.
        batch: Images at once, for throughput.
    """
    make, report = able(to, "bench"), read_report(run)
    student, ctx, _ = saved_student(run, report)
    result: dict[str, Any] = make(ctx).bench(_teacher(report, ctx), run, threads, batch)
    below = min((point.bits for point in student.points.values()), default=8) < 8
    return {**result, "exported": to, "protocol": student.protocol, "below_8_bits": below}


def _teacher(report: Mapping[str, Any], ctx: Context) -> Teacher:
    """The teacher of a run, loaded again from where it came."""
    values = dict(report.get("recipe", {}).get("teacher") or {})
    source, _, ref = str(values.pop("ref", "")).partition(":")
    component = Manager.discover().get(Role.TEACHER, source).component
    teacher: Teacher = component.implementation()(component.options.parse(values), ctx).load(ref)
    teacher.module.eval().requires_grad_(False)
    return teacher


def _cells(row: dict[str, Any]) -> tuple[str, str, str]:
    return f"{row['latency_ms']:.3g} ms", f"{row['images_per_s']:.4g}", str(row["size_bytes"])
