"""Whether exported files answer as the evaluated student does: on its own synthetic images, and on real ones.

    zsq run ... --plugin-file benchmarks/export_agreement.py --eval npz:IMAGES.npz --eval keep --out RUN
    python benchmarks/export_agreement.py RUN --eval npz:IMAGES.npz [--to onnx --to openvino] [--write NAME]

The evaluator ``keep`` leaves images of the run's synthesizer in its folder; a run without them is compared on patterns. Nothing
here is timed. ``--write`` records the figures under ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsq import Component, Options, hookimpl, opt

IMAGES = "images.safetensors"


@dataclass(frozen=True, kw_only=True)
class KeepOptions(Options):
    count: int = opt(1024, "Images that are kept.", ge=1)


class Keep:
    """Writes images of the synthesizer beside the student; measures nothing."""

    compares = True

    def __init__(self, options: KeepOptions, ctx: Any) -> None:
        self.count = options.count

    def evaluate(self, module: Any, ctx: Any) -> dict[str, float]:
        from safetensors.torch import save_file

        if ctx.workdir is not None:
            save_file({"images": ctx.sampler(self.count).inputs.detach().cpu().contiguous()}, ctx.workdir / IMAGES)
        return {}


@hookimpl
def zsq_evaluators() -> Iterator[Component]:
    yield Component("keep", f"{__name__}:Keep", KeepOptions, "Keeps synthetic images beside the student.", needs={"images"})


def measure(run: Path, to: str, reference: str, count: int) -> Iterator[dict[str, Any]]:
    """One row per set of images; the file is written again.

    Args:
        run: Folder of a run.
        to: Exporter: onnx or openvino.
        reference: Real images, as ``--eval`` names them.
        count: Synthetic images.
    """
    from zsq import SavedRun
    from zsq.protocols import Verifying

    saved = SavedRun(run)
    report, student, ctx, exporter = saved.report, saved.saved_student, saved.context, saved.exporter(to, Verifying)
    files = saved.export(to)
    size, own = sum(path.stat().st_size for path in files), report["teacher"]["size_bytes"]
    bits = [report["student"][key] for key in ("weight_bits", "act_bits")]
    shared = {"teacher": report["teacher"]["ref"], "bits": f"W{bits[0]}A{bits[1]}", "scheme": student.scheme, "size_ratio": size / own}
    synthetic, source = _synthetic(run, count)
    real, labels = _real(reference, ctx)
    for images, name, truth in ((synthetic, source, None), (real, Path(reference.partition(":")[2]).stem, labels)):
        found = exporter.verify(student.module, images, run)
        row = {**shared, "runtime": found["runtime"], "images": found["images"], "source": name}
        row |= {"agree": round(found["argmax_agreement"] * found["images"] / 100), "max_abs_diff": found["max_abs_diff"]}
        row |= {"integer": len(found["integer"]), "floating": len(found["floating"]), "islands": len(found["islands"])}
        row["first"] = found["first"]
        if truth is not None:
            row |= {"top1": _top1(run, to, images, truth), "top1_simulated": _simulated(student.module, images, truth)}
            row["top1_teacher"] = report["teacher"]["metrics"].get("top1")
        yield row


def _synthetic(run: Path, count: int) -> tuple[Any, str]:
    from safetensors.torch import load_file

    from zsq import SavedRun

    if (run / IMAGES).is_file():
        return load_file(run / IMAGES)["images"][:count], "synthetic images"
    return SavedRun(run).images(count)


def _real(reference: str, ctx: Any) -> tuple[Any, Any]:
    """Real images, normalised, and their labels, as the evaluator reads them."""
    from zsq._builtin.evaluators import Top1
    from zsq._builtin.options import Top1Options
    from zsq.images import from_uint8

    stored = Top1(Top1Options(ref=reference.partition(":")[2]), ctx)._open(ctx)
    return from_uint8(stored.pixels(slice(None)), ctx.teacher.inputs).contiguous(), stored.labels


def _session(run: Path, to: str) -> Any:
    if to == "openvino":
        from zsq_openvino.runtime import OpenVinoRuntime as Runtime
    else:
        from zsq_onnx.runtime import OnnxRuntime as Runtime
    runtime = Runtime()
    return runtime.session(runtime.read(run))


def _top1(run: Path, to: str, images: Any, labels: Any) -> float:
    """In percent, by the runtime."""
    import numpy as np

    session = _session(run, to)
    answers = np.concatenate([session(batch.numpy())[0].argmax(1) for batch in images.split(32)])
    return 100 * float((answers == labels).mean())


def _simulated(module: Any, images: Any, labels: Any) -> float:
    """In percent, in simulation."""
    import torch

    with torch.no_grad():
        answers = torch.cat([module(batch).argmax(1) for batch in images.split(32)]).numpy()
    return 100 * float((answers == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--eval", required=True, help="real images: npz:PATH or folder:PATH")
    parser.add_argument("--to", action="append", help="exporter; repeat (default: onnx)")
    parser.add_argument("--images", type=int, default=1024, help="synthetic images")
    parser.add_argument("--write", metavar="NAME", help="record under benchmarks/results")
    options = parser.parse_args()
    rows = []
    for to in options.to or ["onnx"]:
        for row in measure(options.run, to, options.eval, options.images):
            print(json.dumps(row), flush=True)
            rows.append(row)
    if options.write:
        from records import keep  # beside this file, as a script; not as a plugin

        keep("export_agreement", options.write, rows=rows)


if __name__ == "__main__":
    main()
