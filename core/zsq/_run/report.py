"""What a run says of itself: ``report.json`` (schema 1, see docs/report.md), the recipe with pins, the card and the pictures."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zsq._plan import pins
from zsq._recipe import Recipe, dump_recipe
from zsq._run.evaluation import IMAGES
from zsq.files import write_atomic
from zsq.images import distinct, gallery
from zsq.protocols import PartlyFloat
from zsq.types import Batch, InputSpec, Student, Teacher

if TYPE_CHECKING:
    from zsq._plan import Plan

SCHEMA = 1


def build(plan: Plan, teacher: Teacher, student: Student, metrics: dict[str, float], own: dict[str, float],
          images: dict[str, Any] | None, engine: Any) -> dict[str, Any]:  # fmt: skip
    """The report of a finished student. Sizes in bytes; top-1 and agreement in percent; ``images`` are figures of the synthetic ones."""
    evaluated = int(metrics.pop(IMAGES, 0))
    own.pop(IMAGES, None)
    return {
        "schema": SCHEMA,
        "teacher": {
            "ref": teacher.ref,
            "task": teacher.task.name,
            "unit": teacher.task.unit,
            "fingerprint": teacher.fingerprint,
            "params": sum(p.numel() for p in teacher.module.parameters()),
            "size_bytes": sum(t.numel() * t.element_size() for t in teacher.module.state_dict().values()),
            "metrics": own,
            **({"license": teacher.license} if teacher.license else {}),
        },
        "student": {
            "metrics": metrics,
            "calibrated": engine.calibrated,
            "scheme": student.scheme,
            "float_parts": list(teacher.task.float_parts if isinstance(teacher.task, PartlyFloat) else ()),
            "weight_bits": _bits(p.bits for p in student.weights.values()),
            "act_bits": _bits(p.bits for p in student.acts.values()),
            "size_bytes": 0,
            "details": dict(student.details),
            "layers": [dict(row) for row in student.layers],
        },
        "steps": engine.steps,
        "phases": list(engine.phases),
        "wall_s": round(engine.seconds, 3),
        "seed": plan.run.seed,
        "images": images,
        "images_evaluated": evaluated,
        "precision": engine.ctx.precision.name,
        "stopped": engine.stopped,
        "versions": pins(plan),
        "hardware": hardware(),
        "recipe": pinned(plan.recipe, teacher.ref).to_dict(),
    }


def pinned(recipe: Recipe, ref: str) -> Recipe:
    """The recipe with the teacher's own reference, which may say more than the one asked for: a commit beside a name."""
    entry = recipe.teacher or {}
    same = str(entry.get("ref", "")).partition(":")[0] == ref.partition(":")[0]
    return replace(recipe, teacher={**entry, "ref": ref}) if entry and same else recipe


def finish(report: dict[str, Any], engine: Any, folder: Path) -> dict[str, Any]:
    """The report with what is known only after export, written to ``folder``."""
    file = folder / "model.safetensors"
    report["student"]["size_bytes"] = file.stat().st_size if file.exists() else 0
    report["phases"], report["wall_s"] = list(engine.phases), round(engine.seconds, 3)
    write_atomic(folder / "README.md", card(report))
    write_atomic(folder / "report.json", json.dumps(report, indent=1) + "\n")
    return report


def manifest(report: dict[str, Any]) -> dict[str, Any]:
    """What an exporter may embed: identities and choices, nothing that changes from run to run."""
    teacher = {k: report["teacher"][k] for k in ("ref", "fingerprint", "params")}
    return {"teacher": teacher, "scheme": report["student"]["scheme"], "recipe": report["recipe"], "versions": report["versions"]}


def write_files(folder: Path, plan: Plan, report: dict[str, Any], inputs: InputSpec, images: Batch | None) -> None:
    """The recipe with its pins, and a picture of synthetic images where there are any."""
    write_atomic(
        folder / "recipe.yaml",
        dump_recipe(pinned(plan.recipe, report["teacher"]["ref"]), {**report["versions"], "teacher": report["teacher"]["fingerprint"]}),
    )
    if images is not None and len(inputs.shape) == 3 and inputs.shape[0] in (1, 3):
        shown = Batch(distinct(images.inputs))
        write_atomic(folder / "images.png", lambda path: gallery(shown, inputs).save(path, "PNG"))


def card(report: dict[str, Any]) -> str:
    """A short model card: what it is, what was measured beside the teacher's own figures, how to load it."""
    teacher, student, recipe = report["teacher"], report["student"], report["recipe"]
    sections = {key: recipe[key] if isinstance(recipe[key], list) else [recipe[key]] for key in ("synth", "quant", "calib", "loss", "tune")}
    chain = " ".join(f"--{key} {entry['name']}" for key, entries in sections.items() for entry in entries)
    rows = [
        f"| {k} | {teacher['metrics'].get(k, float('nan')):.2f} | {v:.2f} |"
        for k, v in student["metrics"].items()
        if k in teacher["metrics"]
    ]
    units = {"agreement": f"agreement with the teacher, % of {teacher['unit']}"}
    rows += [f"| {units.get(k, k)} | | {v:.4g} |" for k, v in student["metrics"].items() if k not in teacher["metrics"]]
    return "\n".join(
        [
            f"# {teacher['ref']}, W{student['weight_bits']}A{student['act_bits'] or 32}",
            "",
            f"Quantized without real images (`{chain}`), scheme `{student['scheme']}`, seed {report['seed']}.",
            "",
            f"| metric ({report['images_evaluated']} real images) | teacher | student |",
            "|---|---|---|",
            *rows,
            f"| bytes | {teacher['size_bytes']} | {student['size_bytes']} |",
            "",
            *([f"In float, behind the network: {', '.join(parts)}.", ""] if (parts := student["float_parts"]) else []),
            "```python",
            "import zsq",
            "",
            'student = zsq.load("PATH/OF/THIS/FOLDER")  # inputs normalised as the teacher\'s',
            "```",
            "",
            "`recipe.yaml` repeats the run; `report.json` holds every figure.",
            "",
        ]
    )


def hardware() -> dict[str, Any]:
    """The machine, as far as it explains a time."""
    return {
        "machine": platform.machine(),
        "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _bits(bits: Any) -> int | str | None:
    """The one bit width of all points, or ``"2-8"``, or None where there are none."""
    found = sorted(set(bits))
    return None if not found else found[0] if len(found) == 1 else f"{found[0]}-{found[-1]}"
