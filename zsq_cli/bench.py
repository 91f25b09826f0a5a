"""``zsq bench``: teacher and student in the same runtime, and no speed-up where there is none to speak of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq.component import Role
from zsq.manager import Manager
from zsq_cli.export import able, saved_student
from zsq_cli.run import read_report

if TYPE_CHECKING:
    from zsq.types import Context, Teacher


def bench_run(run: Path, to: str, threads: int, batch: int, *, json: bool = False) -> None:
    """Measure and print."""
    from zsq_cli import render

    make, report = able(to, "bench"), read_report(run)
    student, ctx, _ = saved_student(run, report)
    result = make(ctx).bench(_teacher(report, ctx), run, threads, batch)
    if json:
        render.print_json(result)
        return
    rows = [(name, *_cells(result[name])) for name in ("teacher", "student")]
    facts = f"{result['runtime']}, threads {result['threads']}, {result['isa']}, medians"
    out = render.console()
    out.print(render.table(rows, "", "latency, batch 1", f"images/s, batch {result['batch']}", "bytes"))
    out.print(facts)
    if result["speedup"] is not None:
        out.print(f"speed-up {result['speedup']:.2f}x")
    else:
        names = ", ".join(result["floating"][:3]) + ("…" if len(result["floating"]) > 3 else "")
        out.print(f"no speed-up: {len(result['floating'])} layers calculate in float ({names})", soft_wrap=True)
        if student.protocol == "paper":
            out.print("protocol 'paper' is not integer from end to end: quantize with --set quant.protocol=deploy", soft_wrap=True)
    if min((point.bits for point in student.points.values()), default=8) < 8:
        out.print("values below 8 bits lie in int8 containers: they run at int8 speed and save download size", soft_wrap=True)


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
