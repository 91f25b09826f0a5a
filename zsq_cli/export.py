"""``zsq export``: further files of a saved student, written beside it."""

from __future__ import annotations

from pathlib import Path

from zsq._api.saved import SavedRun

#: What to expect of a student below 8 bits, wherever its speed is the subject.
BELOW_8_BITS = "values below 8 bits lie in int8 containers: they run at int8 speed and save download size (model.safetensors)"


def export_run(place: Path, to: str, *, json: bool = False) -> None:
    """Write the files of exporter ``to`` into the run's folder, and name them."""
    from zsq_cli import render

    run = SavedRun.open(place)
    own = run.report["teacher"].get("size_bytes")
    sizes = {str(path): path.stat().st_size for path in run.export(to)}
    if json:
        render.print_json({"files": sizes, "teacher_bytes": own})
        return
    for name, size in sizes.items():
        share = f", {size / own:.2f} of the teacher's" if own else ""
        render.console().print(f"{name}: {size} bytes{share}", soft_wrap=True)
