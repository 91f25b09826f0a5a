"""Sentences for the page: whether the student can be trusted, and what to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zsq_report.charts import average
from zsq_report.classes import Classes, wilson
from zsq_report.measure import Seen

#: Above these, in percent or as a factor, a range is worth a look.
_CLIPPED, _UNUSED = 1.0, 2.0
#: Nats over which statistics of BatchNorm have drifted.
_DRIFT = 0.5


@dataclass(frozen=True)
class Note:
    """One sentence. ``level``: ``good``, ``look`` (worth a look) or ``warning``."""

    level: Literal["good", "look", "warning"]
    text: str


def notes(report: Mapping[str, Any], seen: Seen, classes: Classes | None) -> list[Note]:
    """All there is to say, warnings first."""
    rank = {"warning": 0, "look": 1, "good": 2}
    return sorted([*_measured(report, classes), *_run(report), *_ranges(seen), *_images(report, seen)], key=lambda note: rank[note.level])


def _measured(report: Mapping[str, Any], classes: Classes | None) -> Iterator[Note]:
    n, student, teacher = report["images_evaluated"], report["student"]["metrics"], report["teacher"]["metrics"]
    if not n:
        hint = "Give --eval npz:PATH." if report["teacher"]["unit"] == "images" else "Give some with --eval."
        yield Note("warning", f"No real images were evaluated: there is only agreement with the teacher on synthetic ones. {hint}")
        return
    if "top1" not in student:
        yield Note("good" if n >= 1000 else "look", f"Metrics are of {n:,} real images; how far chance moves them is not known.")
        return
    low, high = wilson(student["top1"], n) or (0.0, 0.0)
    yield Note("good" if n >= 1000 else "look", f"Top-1 is of {n:,} real images; its 95 % interval is {low:.1f} to {high:.1f} %.")
    if classes is not None and classes.drop_error is not None and "top1" in teacher:
        drop, error = teacher["top1"] - student["top1"], classes.drop_error
        clear = "larger than chance" if abs(drop) > error else "within what chance may do"
        lost = f"{classes.lost:,} images only the teacher got right, {classes.won:,} only the student"
        yield Note(
            "good" if drop <= 1 or abs(drop) <= error else "look", f"The drop of {drop:.2f} points is {clear} (± {error:.2f}): {lost}."
        )
    if classes is not None and classes.teacher is not None:
        worst = classes.rows()[0]
        overall = teacher.get("top1", 0) - student["top1"]
        if worst["drop"] > max(5.0, 3 * overall):
            yield Note(
                "look", f"Class {worst['name']} loses {worst['drop']:.1f} points, far more than the {overall:.1f} of all classes together."
            )


def _run(report: Mapping[str, Any]) -> Iterator[Note]:
    if report["stopped"]:
        yield Note("warning", "The run was ended early, by its budget or by hand: more time may give a better student.")
    yield Note("look", f"One run with seed {report['seed']}: how much seeds matter is only seen over several (zsq compare).")
    rows = [row for row in report["student"]["layers"] if row["type"] not in ("activation",) and not row["type"].startswith("BatchNorm")]
    if left := [row["path"] for row in rows if not row["wrapped"]]:
        some = ", ".join(left[:4]) + (" …" if len(left) > 4 else "")
        yield Note("look", f"{len(left)} of {len(rows)} layers stayed in float: {some}.")
    elif rows:
        yield Note("good", f"All {len(rows)} layers with weights are quantized.")
    if report["student"]["act_bits"] is None:
        yield Note("look", "Activations stayed in float: integer arithmetic cannot run this student.")


def _ranges(seen: Seen) -> Iterator[Note]:
    acts = [row for row in seen.acts if row.values]
    where = "synthetic images" if seen.synthetic else "Gaussian noise"
    if clipped := [row for row in acts if (row.clipped or 0) > _CLIPPED]:
        most = max(clipped, key=lambda row: row.clipped or 0)
        which = f"most {most.path} ({most.clipped:.1f} %)"
        yield Note(
            "look",
            f"{len(clipped)} of {len(acts)} activations clip over {_CLIPPED:g} % of values on {where}, {which}.",
        )
    elif acts:
        yield Note("good", f"No activation clips over {_CLIPPED:g} % of its values on {where}.")
    if wide := [row for row in acts if row.hi - row.lo > _UNUSED * max(row.high - row.low, 1e-12)]:
        yield Note(
            "look", f"{len(wide)} of {len(acts)} activation ranges are over {_UNUSED:g} times as wide as what arrived: codes stay unused."
        )
    drift = average(seen.norms, "student")
    if drift is not None and drift > _DRIFT:
        yield Note("look", f"What arrives at the student's BatchNorm layers is {drift:.2f} nats from what they keep, on average.")


def _images(report: Mapping[str, Any], seen: Seen) -> Iterator[Note]:
    found = report["images"]
    if seen.answers.missing:
        yield Note("look", f"Answers are not drawn: {seen.answers.missing}.")
    if not found or seen.teacher is None:
        return
    classes = seen.teacher.shape[1]
    if found["count"] >= 4 * classes and found["classes"] < classes:
        yield Note("look", f"The teacher sees {found['classes']} of its {classes} classes in the synthetic images.")
