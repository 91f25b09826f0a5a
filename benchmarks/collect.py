"""Keep the reports of finished runs as records, and write RESULTS.md from all records. Nothing else writes RESULTS.md.

python benchmarks/collect.py [--name PREFIX] [RUN_FOLDER ...]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What a task is judged by, and how it is written.
METRICS = {"top1": "top-1", "miou": "mIoU", "map50": "mAP@50"}

#: Names that say nothing of a data set.
_PARTS = frozenset({"train", "val", "test"})

HERE = Path(__file__).parent
RECORDS, PAGE = HERE / "results", HERE.parent / "RESULTS.md"


def record(folder: Path) -> dict[str, Any]:
    """The report of a run without its layers; paths are cut to file names, so that no machine shows."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    report["student"].pop("layers")
    for long in ("frontier", "sensitivities"):
        report["student"].get("details", {}).pop(long, None)
    recipe = report["recipe"]
    if weights := recipe["teacher"].get("weights"):
        recipe["teacher"]["weights"] = Path(weights).name
    for entry in recipe.get("eval") or []:
        if "ref" in entry:
            entry["ref"] = shown(entry["ref"])
    return {"benchmark": "run", **report}


def shown(path: str) -> str:
    """The last part of a path; where that only says which part of a data set it is, with the name of the data set."""
    file = Path(path)
    return str(Path(file.parent.name, file.name)) if file.stem in _PARTS else file.name


def chain(recipe: dict[str, Any]) -> str:
    """The chain as it is typed."""
    waves = " (spectrum)" if recipe["synth"].get("basis") == "spectrum" else ""
    parts = [f"{recipe['synth']['name']}{waves}", f"{recipe['quant']['name']}", *(c["name"] for c in recipe["calib"])]
    return " + ".join([*parts, recipe["tune"]["name"] if recipe["tune"]["name"] != "none" else "no tuning"])


def named(ref: str) -> str:
    """A teacher's reference in one word: its file, or the network in a module."""
    _, _, rest = ref.partition(":")
    place, _, name = rest.rpartition(":")
    return Path(place).stem if place.endswith(".py") else name


def bits(student: dict[str, Any]) -> str:
    """``W4A4``; where layers differ, with the mean over all weights: ``W2-8 (mean 4.00) A8``."""
    mean = student.get("details", {}).get("mean_bits")
    return f"W{student['weight_bits']}{f' (mean {mean:.2f}) ' if mean else ''}A{student['act_bits'] or 32}"


def metric(r: dict[str, Any]) -> str:
    """What a run is judged by, one of ``METRICS``."""
    return next(name for name in METRICS if name in r["student"]["metrics"])


def teacher_and_data(r: dict[str, Any]) -> tuple[str, str]:
    """The teacher's weights or reference, and how many images of what it was evaluated on."""
    found = next((str(Path(e["ref"]).with_suffix("")) for e in r["recipe"].get("eval") or [] if "ref" in e), "embedded")
    return Path(r["recipe"]["teacher"].get("weights", r["teacher"]["ref"])).stem, f"{r['images_evaluated']} ({found})"


def rows_of_runs(records: list[dict[str, Any]]) -> list[str]:
    """One line per run, teacher beside student."""
    lines = [
        "| teacher | images | chain | bits | scheme | seed | teacher top-1 | student top-1 | drop | steps | time | kB | arithmetic |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        teacher, student = r["teacher"], r["student"]
        own, top1 = teacher["metrics"]["top1"], student["metrics"]["top1"]
        name, data = teacher_and_data(r)
        lines.append(
            f"| {name} | {data} | {chain(r['recipe'])} | {bits(student)} "
            f"| {student['scheme']} | {r['seed']} | {own:.2f} | {top1:.2f} | {own - top1:.2f} | {r['steps']} | {r['wall_s']:.0f} s "
            f"| {student['size_bytes'] / 1000:.0f} | {r['precision']} |"
        )
    return lines


def rows_of_methods(records: list[dict[str, Any]]) -> list[str]:
    """One line per run that looked at its student before tuning; the best of each bit width first."""
    lines = [
        "| bits | chain | losses | seed | calibrated | tuned | gain | teacher | steps | time | distance in class | rank | confidence |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(records, key=lambda r: (bits(r["student"]), -r["student"]["metrics"]["top1"])):
        before, top1, images = r["student"]["calibrated"]["top1"], r["student"]["metrics"]["top1"], r["images"]
        seen = [f"{images[name]:.{digits}f}" for name, digits in (("cosine_distance", 2), ("effective_rank", 1), ("confidence", 2))]
        losses = " + ".join(entry["name"] for entry in r["recipe"]["loss"])
        lines.append(
            f"| {bits(r['student'])} | {chain(r['recipe'])} | {losses} | {r['seed']} | {before:.2f} | {top1:.2f} | {top1 - before:+.2f} "
            f"| {r['teacher']['metrics']['top1']:.2f} | {r['steps']} | {r['wall_s']:.0f} s | {' | '.join(seen)} |"
        )
    return lines


def rows_of_seeds(records: list[dict[str, Any]]) -> list[str]:
    """One line per teacher, chain and bit width that was run with three seeds or more: mean, and the lowest and highest."""
    lines = ["| teacher | bits | chain | metric | seeds | mean | lowest | highest | mean time |", "|---|---|---|---|---|---|---|---|---|"]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for r in records:
        settings = (str(r["recipe"]["loss"]), r["student"]["scheme"])
        groups.setdefault((teacher_and_data(r)[0], bits(r["student"]), chain(r["recipe"]), *settings), []).append(r)
    for (teacher, width, name, *_), runs in sorted(groups.items()):
        if len({r["seed"] for r in runs}) >= 3:
            judged = metric(runs[0])
            found, seconds = [r["student"]["metrics"][judged] for r in runs], [r["wall_s"] for r in runs]
            lines.append(
                f"| {teacher} | {width} | {name} | {METRICS[judged]} | {len(runs)} | {sum(found) / len(found):.2f} | {min(found):.2f} "
                f"| {max(found):.2f} | {sum(seconds) / len(seconds):.0f} s |"
            )
    return lines


def rows_of_tasks(records: list[dict[str, Any]]) -> list[str]:
    """One line per run of a task other than classification, teacher and calibrated student beside the finished one."""
    columns = ["teacher", "images", "chain", "losses", "bits", "scheme", "seed", "metric", "teacher's", "calibrated", "student"]
    columns += ["gain", "drop", "steps", "time", "kB", "arithmetic"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for r in sorted(records, key=lambda r: (r["teacher"]["ref"], bits(r["student"]), chain(r["recipe"]), r["seed"])):
        student, name = r["student"], metric(r)
        own, found, before = r["teacher"]["metrics"][name], student["metrics"][name], (student.get("calibrated") or {}).get(name)
        losses = " + ".join(entry["name"] for entry in r["recipe"]["loss"]) if r["steps"] else ""
        looked = ["", f"{found:.2f}", ""] if before is None else [f"{before:.2f}", f"{found:.2f}", f"{found - before:+.2f}"]
        cells = [*teacher_and_data(r), chain(r["recipe"]), losses, bits(student), student["scheme"], r["seed"], METRICS[name]]
        cells += [f"{own:.2f}", *looked, f"{own - found:.2f}", r["steps"], f"{r['wall_s']:.0f} s"]
        cells += [f"{student['size_bytes'] / 1000:.0f}", r["precision"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def rows_of_measured(columns: list[str], records: list[dict[str, Any]], cells: Callable[[dict[str, Any]], list[Any]]) -> list[str]:
    """A table with one line per row of the records."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return lines + [f"| {' | '.join(map(str, cells(row)))} |" for r in records for row in r["rows"]]


def rows_of_steps(records: list[dict[str, Any]]) -> list[str]:
    """One line per batch size and arithmetic; a tuner other than ``finetune`` stands beside that one, without a generator."""

    def cells(row: dict[str, Any]) -> list[Any]:
        tune = row.get("tune", "finetune")
        beside = f"{'floor' if tune == 'finetune' else 'finetune'} {row['floor_s']:.3f} s"
        return [row["synth"], tune, row["batch"], row["precision"], f"{row['chain_s']:.3f} s", beside, f"{row['ratio']:.2f}"]

    return rows_of_measured(["synthesizer", "tuner", "batch", "arithmetic", "step", "beside", "ratio"], records, cells)


def rows_of_distillation(records: list[dict[str, Any]]) -> list[str]:
    """One line per teacher and arithmetic."""

    def cells(row: dict[str, Any]) -> list[Any]:
        times = [f"{1000 * row[name]:.1f} ms" for name in ("iteration_s", "floor_s")]
        return [row["synth"], row["teacher"], row["batch"], row["precision"], *times, f"{row['ratio']:.2f}"]

    return rows_of_measured(["synthesizer", "teacher", "batch", "arithmetic", "iteration", "floor", "ratio"], records, cells)


def rows_of_sensitivities(records: list[dict[str, Any]]) -> list[str]:
    """One line per teacher."""

    def cells(row: dict[str, Any]) -> list[Any]:
        times = [f"{row['sensitivities_s']:.1f} s", f"{row['forward_s']:.2f} s"]
        return [row["teacher"], row["layers"], len(row["bits"]), row["images"], *times, f"{row['ratio']:.2f}"]

    return rows_of_measured(["teacher", "layers", "widths", "images", "all sensitivities", "one forward", "ratio"], records, cells)


def rows_of_traces(records: list[dict[str, Any]]) -> list[str]:
    """One line per network."""

    def cells(row: dict[str, Any]) -> list[Any]:
        return [row["network"], f"{row['recorded_s']:.3f} s", f"{row['exported_s']:.2f} s", f"{row['ratio']:.3f}"]

    return rows_of_measured(["network", "recorded", "torch.export", "ratio"], records, cells)


def rows_of_exports(records: list[dict[str, Any]]) -> list[str]:
    """One line per runtime and set of images."""

    def cells(row: dict[str, Any]) -> list[Any]:
        first = row["first"]
        differs = "none" if first is None else f"{first['path']}, {first['share']:.1g} % of its codes"
        tops = [row.get(name) for name in ("top1_teacher", "top1_simulated", "top1")]
        found = [f"{row['agree']} of {row['images']}", f"{row['max_abs_diff']:.2g}", differs]
        layers = f"{row['integer']} / {row['floating']} / {row['islands']}"
        return [
            named(row["teacher"]), row["bits"], row["runtime"], row["source"], *found, layers, f"{row['size_ratio']:.3f}",
            *("" if top is None else f"{top:.2f}" for top in tops),
        ]  # fmt: skip

    columns = ["teacher", "bits", "runtime", "images", "same answer", "largest difference", "first layer that differs"]
    columns += ["integer / float layers / islands", "bytes of the teacher's", "teacher top-1", "simulated", "exported"]
    return rows_of_measured(columns, records, cells)


def rows_of_speeds(records: list[dict[str, Any]]) -> list[str]:
    """One line per student and runtime; no speed-up where something calculates in float."""

    def cells(row: dict[str, Any]) -> list[Any]:
        times = [f"{row[f'{name}_latency_ms']:.2f} ms" for name in ("teacher", "student")]
        many = [f"{row[f'{name}_images_per_s']:.0f}" for name in ("teacher", "student")]
        gains = ["none" if row[name] is None else f"{row[name]:.2f}x" for name in ("speedup", "speedup_batch")]
        name = [named(row["teacher"]), row["bits"], row["runtime"], row["isa"], row["threads"]]
        return [*name, *times, gains[0], *many, gains[1]]

    columns = ["teacher", "bits", "runtime", "instructions", "threads", "teacher, batch 1", "student", "speed-up"]
    return rows_of_measured([*columns, "teacher, images/s", "student", "speed-up"], records, cells)


def render() -> str:
    """RESULTS.md from every record there is."""
    records = [json.loads(path.read_text()) for path in sorted(RECORDS.glob("*.json"))]
    machines = sorted({f"{r['hardware']['cores']} cores, {r['hardware']['cpu']}, {r['hardware']['isa']}" for r in records})
    runs = [r for r in records if r["benchmark"] == "run"]
    tasks = [r for r in runs if metric(r) != "top1"]
    runs = [r for r in runs if metric(r) == "top1"]
    looked = [r for r in runs if r["student"].get("calibrated")]
    steps = [r for r in records if r["benchmark"] == "step_time"]
    return "\n".join(
        [
            "# Results",
            "",
            "Only what was measured: written by `benchmarks/collect.py` from the records in `benchmarks/results`. Top-1 in percent, of",
            "the last step; no step is selected on test images. Real images are used for evaluation only. The defaults of the options were",
            "chosen on the teacher `resnet20-cifar10` with `cifar10-test-5k`, seeds 0 to 2; the embedded teacher and EfficientNet-Lite0",
            "had no part in it. The synthesizer `real` is a diagnostic: real images in the place of synthetic ones.",
            "Never compare across schemes or teachers.",
            "",
            f"Machines: {'; '.join(machines)}.",
            "",
            "## Accuracy",
            "",
            *rows_of_runs([r for r in runs if r not in looked]),
            "",
            "## Methods side by side",
            "",
            "ResNet-20 for CIFAR-10, scheme paper, 5,000 real test images, one run each with a budget of five minutes: every",
            "synthesizer before the same quantizer and calibrator, then its own loss. Distance in class: mean cosine distance between",
            "synthetic images of one class (by the teacher's answer) in the teacher's last features; rank: effective rank of those",
            "features; confidence: the teacher's, mean.",
            "",
            *rows_of_methods(looked),
            "",
            "Chains that were run with several seeds:",
            "",
            *rows_of_seeds(looked),
            "",
            "## Segmentation and detection",
            "",
            "Teachers of the zoo, on the validation images of their data sets; their settings were chosen on training images. In percent;",
            "gain: what tuning adds to the calibrated student; drop: what the teacher has more.",
            "",
            *rows_of_tasks(tasks),
            "",
            "Chains that were run with several seeds:",
            "",
            *rows_of_seeds(tasks),
            "",
            "## Time of one iteration with a generator, and of one step of a tuner",
            "",
            "Medians per student step; the floor is the same forwards and backwards without any quantizer, statistics or bookkeeping, in",
            "the same run. A tuner alone stands beside plain `finetune` on the same images (`benchmarks/step_time.py`).",
            "",
            *rows_of_steps(steps),
            "",
            "## Time of one iteration of image distillation",
            "",
            "Medians; the floor is the bare teacher, forward and backward to its input, in the same run (`benchmarks/distill_time.py`).",
            "",
            *rows_of_distillation([r for r in records if r["benchmark"] == "distill_time"]),
            "",
            "## Time of sensitivities",
            "",
            "Of all layers at all widths; the ratio is to layers x widths forward passes of the teacher (`benchmarks/sensitivity.py`).",
            "",
            *rows_of_sensitivities([r for r in records if r["benchmark"] == "sensitivity"]),
            "",
            "## Time of tracing",
            "",
            "Until a network's graph is there, imports of the tracer included, each in a process of its own (`benchmarks/trace_time.py`).",
            "",
            *rows_of_traces([r for r in records if r["benchmark"] == "trace_time"]),
            "",
            "## Exported students",
            "",
            "The exported file beside the evaluated student, image by image (`benchmarks/export_agreement.py`).",
            "",
            *rows_of_exports([r for r in records if r["benchmark"] == "export_agreement"]),
            "",
            "Teacher in float32 and student in the same runtime, in turns; medians (`benchmarks/export_speed.py`).",
            "",
            *rows_of_speeds([r for r in records if r["benchmark"] == "export_speed"]),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders to keep")
    parser.add_argument("--name", default="", help="prefix of the records' names")
    options = parser.parse_args()
    for folder in options.runs:
        (RECORDS / f"{options.name}{folder.name}.json").write_text(json.dumps(record(folder), indent=1) + "\n")
    PAGE.write_text(render())


if __name__ == "__main__":
    main()
