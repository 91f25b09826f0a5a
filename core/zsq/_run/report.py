"""What a run writes about itself: ``report.json`` (schema 1, see docs/report.md), the recipe with pins, a short model card, images."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import torch

from zsq._plan import Plan, pins
from zsq._recipe import Recipe, dump_recipe
from zsq._run.state import RunState
from zsq.files import write_atomic
from zsq.images import distinct, gallery, write_npz
from zsq.protocols import PartlyFloat
from zsq.types import Batch, InputSpec, Student

SCHEMA = 1
#: What evaluators call the number of images they looked at.
IMAGES = "images"
#: At most so many pixels of synthetic images are kept, for `zsq verify`.
_KEPT_PIXELS = 500_000


def build(
    state: RunState, student: Student, metrics: dict[str, float], own: dict[str, float], images: dict[str, Any] | None
) -> dict[str, Any]:
    """The report of a finished student.

    Args:
        state: Of the run.
        student: The student, frozen.
        metrics: Of the student; top-1 and agreement in percent.
        own: Of the teacher.
        images: Diversity of the synthetic images.
    """
    teacher, plan = state.teacher, state.plan.lasting
    assert teacher is not None
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
            "calibrated": state.calibrated,
            "scheme": student.scheme,
            "float_parts": list(teacher.task.float_parts if isinstance(teacher.task, PartlyFloat) else ()),
            "weight_bits": _bits(p.bits for p in student.weights.values()),
            "act_bits": _bits(p.bits for p in student.acts.values()),
            "size_bytes": 0,
            "details": dict(student.details),
            "layers": [dict(row) for row in student.layers],
        },
        "steps": state.steps,
        "phases": list(state.timings),
        "wall_s": round(state.seconds, 3),
        "seed": plan.run.seed,
        "images": images,
        "images_evaluated": evaluated,
        "precision": state.precision.name,
        "stopped": state.stopped,
        "versions": pins(plan),
        "hardware": hardware(),
        "recipe": pinned(plan.recipe, teacher.ref).to_dict(),
    }


def pinned(recipe: Recipe, ref: str) -> Recipe:
    """The recipe with the teacher's own reference, which may be more exact than the one in the recipe: a commit beside a name."""
    entry = recipe.teacher or {}
    same = str(entry.get("ref", "")).partition(":")[0] == ref.partition(":")[0]
    return replace(recipe, teacher={**entry, "ref": ref}) if entry and same else recipe


def finish(report: dict[str, Any], state: RunState, folder: Path) -> dict[str, Any]:
    """The report with the values that are known only after export; written to ``folder`` with the card."""
    file = folder / "model.safetensors"
    report["student"]["size_bytes"] = file.stat().st_size if file.exists() else 0
    report["phases"], report["wall_s"] = list(state.timings), round(state.seconds, 3)
    write_atomic(folder / "README.md", card(report))
    write_atomic(folder / "report.json", json.dumps(report, indent=1) + "\n")
    return report


def manifest(report: dict[str, Any]) -> dict[str, Any]:
    """What an exporter may embed: identities and choices, nothing that changes from run to run."""
    teacher = {k: report["teacher"][k] for k in ("ref", "fingerprint", "params")}
    return {"teacher": teacher, "scheme": report["student"]["scheme"], "recipe": report["recipe"], "versions": report["versions"]}


def write_recipe(folder: Path, plan: Plan, report: dict[str, Any]) -> None:
    """Write the recipe with its pins."""
    pinned_recipe = pinned(plan.recipe, report["teacher"]["ref"])
    write_atomic(folder / "recipe.yaml", dump_recipe(pinned_recipe, {**report["versions"], "teacher": report["teacher"]["fingerprint"]}))


def write_images(folder: Path, images: Batch, inputs: InputSpec) -> None:
    """Write synthetic images as uint8 pixels (``images.npz``) and as a picture (``images.png``), if they have one or three channels."""
    if len(inputs.shape) != 3 or inputs.shape[0] not in (1, 3):
        return
    shown = Batch(distinct(images.inputs))
    write_atomic(folder / "images.png", lambda path: gallery(shown, inputs).save(path, "PNG"))
    count = max(1, _KEPT_PIXELS // (inputs.shape[1] * inputs.shape[2]))
    write_npz(folder / "images.npz", shown.inputs[:count], inputs)


def card(report: dict[str, Any]) -> str:
    """A short model card: what it is, its metrics beside the teacher's own, how to load it."""
    teacher, student, recipe = report["teacher"], report["student"], report["recipe"]
    sections = {key: recipe[key] if isinstance(recipe[key], list) else [recipe[key]] for key in ("synth", "quant", "calib", "loss", "tune")}
    own, unit = teacher["metrics"], f"agreement with the teacher, % of {teacher['unit']}"
    rows = [f"| {k} | {own[k]:.2f} | {v:.2f} |" for k, v in student["metrics"].items() if k in own]
    rows += [f"| {unit if k == 'agreement' else k} | | {v:.4g} |" for k, v in student["metrics"].items() if k not in own]
    return Template((Path(__file__).parent / "card.md").read_text(encoding="utf-8")).substitute(
        title=f"{teacher['ref']}, W{student['weight_bits']}A{student['act_bits'] or 32}",
        chain=" ".join(f"--{key} {entry['name']}" for key, entries in sections.items() for entry in entries),
        scheme=student["scheme"],
        seed=report["seed"],
        images=report["images_evaluated"],
        rows="\n".join([*rows, f"| bytes | {teacher['size_bytes']} | {student['size_bytes']} |"]),
        parts=f"In float, after the network: {', '.join(student['float_parts'])}.\n\n" if student["float_parts"] else "",
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


def _bits(bits: Iterable[int]) -> int | str | None:
    """The bit width if all points have the same, ``"2-8"`` if not, None without points."""
    found = sorted(set(bits))
    return None if not found else found[0] if len(found) == 1 else f"{found[0]}-{found[-1]}"
