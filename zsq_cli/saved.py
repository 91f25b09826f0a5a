"""``zsq eval``, ``export``, ``verify``, ``bench`` and ``push``: the commands for saved students. ``SavedRun`` does the work."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._api.saved import ENOUGH, SavedRun
from zsq._manager import Manager
from zsq.errors import PlanError, ZsqError
from zsq_cli import render

if TYPE_CHECKING:
    from zsq._plan import Plan
    from zsq.protocols import Published

#: What to expect of the speed of a student below 8 bits.
BELOW_8_BITS = "values below 8 bits are stored as int8 in this file: they run at int8 speed; model.safetensors is smaller"
_PAPER = "scheme 'paper' is not integer from end to end: for speed quantize with --set quant.scheme=deploy"


def evaluate_run(
    place: Path, evaluators: Sequence[str], *, json: bool = False, files: Sequence[Path] = (), third_party: bool = True
) -> None:
    """``zsq eval``: evaluate the saved student on real images.

    Default for ``evaluators``: those of the run, else the one of its teacher. The teacher's metrics are shown only if the run measured
    them in the same way, because metrics of different images are never compared.
    """
    run = SavedRun.open(place, manager=Manager.discover(third_party=third_party, files=files))
    metrics, own = run.evaluate(evaluators)
    images = int(metrics.pop("images", 0))
    if json:
        teacher = {"ref": run.report["teacher"]["ref"], "metrics": own}
        render.print_json({"student": {"metrics": metrics}, "teacher": teacher, "images_evaluated": images})
    else:
        render.console().print(render.metrics_table({**metrics, "images": images}, own))


def export_run(place: Path, to: str, *, json: bool = False) -> None:
    """``zsq export``: write the files of exporter ``to`` into the run folder, and print their sizes."""
    run = SavedRun.open(place)
    own = run.report["teacher"].get("size_bytes")
    sizes = {str(path): path.stat().st_size for path in run.export(to)}
    if json:
        render.print_json({"files": sizes, "teacher_bytes": own})
        return
    for name, size in sizes.items():
        share = f", {size / own:.2f} of the teacher's" if own else ""
        render.console().print(f"{name}: {size} bytes{share}", soft_wrap=True)


def verify_run(place: Path, to: str, count: int, file: Path | None, *, json: bool = False) -> int:
    """``zsq verify``: compare an exported file with the student; returns 1 if the file is not verified."""
    result = SavedRun.open(place, exported=True).verify(to, count, file)
    if json:
        render.print_json(result)
    else:
        for line in verify_lines(result):
            render.console().print(line, soft_wrap=True)
    return 0 if result["verified"] else 1


def verify_lines(result: Mapping[str, Any]) -> list[str]:
    """The result of ``verify`` in words."""
    first, unit, images = result["first"], result["unit"], f"{result['images']} images"
    counted = images if unit == "images" else f"the {unit} of {images}"
    lines = [
        f"{result['exported']}, {result['runtime']}",
        f"{result['argmax_agreement']:.2f} % of {counted} ({result['source']}) get the same answer",
        f"largest difference of a logit {result['max_abs_diff']:.3g}; the largest logit is {result['spread']:.3g}",
        "no code differs"
        if first is None
        else f"first layer that differs: {first['path']}, {first['share']:.3g} % of its codes, by {first['steps']} at most",
        f"integer layers: {len(result['integer'])}; float layers: {_some(result['floating'])}",
    ]
    if islands := result.get("islands"):
        lines.append(f"operations in float between layers: {_some(islands)}")
    if result.get("caution"):
        lines.append(result["caution"])
    if result["below_8_bits"]:
        lines.append(BELOW_8_BITS)
    if result["floating"] and result["scheme"] == "paper":
        lines.append(_PAPER)
    if result["argmax_agreement"] < ENOUGH:
        lines.append(f"NOT VERIFIED: less than {ENOUGH} % agree")
    elif not result["verified"]:
        lines.append("NOT VERIFIED: a student of scheme 'deploy' must not have a convolution in float")
    else:
        lines.append("verified")
    return lines


def _some(names: Sequence[str]) -> str:
    """The number of names, and the first five: ``7 (a, b, c, d, e and 2 more)``."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} ({', '.join(names[:5])}{more})" if names else "0"


def bench_run(place: Path, to: str, threads: int, batch: int, *, json: bool = False) -> None:
    """``zsq bench``: time teacher and student in the same runtime, and print both."""
    result = SavedRun.open(place, exported=True).bench(to, threads, batch)
    if json:
        render.print_json(result)
        return
    timed = {name: result[name] for name in ("teacher", "student")}
    rows = [(name, f"{t['latency_ms']:.3g} ms", f"{t['images_per_s']:.4g}", str(t["size_bytes"])) for name, t in timed.items()]
    out = render.console()
    out.print(render.table(rows, "", "latency, batch 1", f"images/s, batch {result['batch']}", "bytes"))
    out.print(f"{result['runtime']}, threads {result['threads']}, {result['isa']}, medians")
    if result["speedup"] is not None:
        out.print(f"speed-up {result['speedup']:.2f}x; all {len(result['integer'])} layers are integer")
    else:
        what, found = ("layers", result["floating"]) if result["floating"] else ("operations between layers", result["islands"])
        names = ", ".join(found[:3]) + ("…" if len(found) > 3 else "")
        out.print(f"no speed-up: {len(found)} {what} run in float ({names})", soft_wrap=True)
        if result["scheme"] == "paper":
            out.print(_PAPER, soft_wrap=True)
    if result["below_8_bits"]:
        out.print(BELOW_8_BITS, soft_wrap=True)


def push_run(run: Path, place: str, *, json: bool = False, **about: Any) -> None:
    """``zsq push``: publish, or write the files to a folder, and print where they are. ``about``: as :meth:`SavedRun.push` takes it."""
    done = SavedRun(run).push(place, **about)
    if json:
        render.print_json({"url": done.url, "commit": done.commit, "files": list(done.files)})
    else:
        render.console().print(published_line(done), soft_wrap=True)


def ready_to_push(place: str, plan: Plan) -> None:
    """Check before a run that its result can be published.

    Raises:
        ZsqError: If publishing there is impossible, or the run would save no file that can be loaded again.
    """
    from zsq._api.stores import store

    if "safetensors" not in [choice.name for choice in plan.exporters]:
        asked = " ".join(f"--export {choice.name}" for choice in plan.exporters)
        what = "a run without model.safetensors cannot be pushed: it could not be loaded from the Hub"
        raise PlanError(what, asked, "add --export safetensors")
    found, rest = store(place)
    found.ready(rest)


def publish_finished(run: Path, place: str, private: bool | None = None) -> Published:
    """Publish at the end of a run. If this fails, the run stays, and the error names the command that publishes it."""
    try:
        return SavedRun(run).push(place, private=private)
    except ZsqError as error:
        what = f"{error.what}; the run is finished, but not published"
        raise type(error)(what, error.where, f"after fixing this: zsq push {shlex.quote(str(run))} {place}") from error


def published_line(done: Published) -> str:
    """Where the files are, in one line."""
    return f"{done.url} at {done.commit}" if done.commit else f"{done.url}: {len(done.files)} files, nothing was published"
