"""Writes the parts of the model card from the files of a run. They state only what was measured or chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import constants

_ROWS = {
    "top1": "top-1 accuracy, %",
    "top5": "top-5 accuracy, %",
    "agreement": "same answer as the teacher on $unit synthetic images, %",
}
_BATCH = """\
import numpy as np
import torch
import zsq
from PIL import Image

image = Image.open("FILE").convert("{mode}").resize(({width}, {height}))  # or crop, as the teacher's own evaluation does
pixels = np.asarray(image, np.float32).reshape({height}, {width}, {channels}) / 255
pixels = (pixels - np.float32([{mean}])) / np.float32([{std}])
batch = pixels.transpose(2, 0, 1)[None]  # (1, {channels}, {height}, {width})
"""
_BARE = "import torch\nimport zsq\n\nbatch = ...  # inputs of the teacher\n"
_LOAD = """
student = zsq.load("{repo}")
with torch.no_grad():
    logits = student(torch.from_numpy(batch))  # (1, classes), in the teacher's order of classes"""
_ONNX = """
The same by ONNX Runtime, without PyTorch:

```python
import onnxruntime
from huggingface_hub import hf_hub_download

session = onnxruntime.InferenceSession(hf_hub_download("{repo}", "model.onnx"))
(logits,) = session.run(None, {{"inputs": batch}})
```
"""
_OPENVINO = """
And by OpenVINO:

```python
import openvino
from huggingface_hub import snapshot_download

folder = snapshot_download("{repo}", allow_patterns=["model.xml", "model.bin"])
logits = openvino.compile_model(f"{{folder}}/model.xml", "CPU")([batch])[0]
```
"""
#: The file of an exporter, as it is called on the card.
_FILES = {"onnx": "model.onnx", "openvino": "model.xml"}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts for the card that the files of the run do not contain.

    Args:
        repo: ``ORG/NAME`` it will be published as.
        base_model: The teacher on the Hub, where it is there.
        license: That of the teacher, as fields of the front matter; empty when unknown, never guessed.
        dataset: What the accuracy was measured on; without it no ``model-index`` is written.
        author: Who pushes.
        proof: ``verify.json``, where it is about the exported file beside it.
        files: Names of all that is published, and their bytes.
    """

    repo: str
    base_model: str | None = None
    license: Mapping[str, str] | None = None
    dataset: str | None = None
    author: str | None = None
    proof: Mapping[str, Any] | None = None
    files: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The repository without its owner."""
        return self.repo.partition("/")[2]


def fill(
    report: Mapping[str, Any], config: Mapping[str, Any], recipe: str, facts: Facts, accuracies: Mapping[str, float]
) -> dict[str, str]:
    """The value of every ``$name`` in ``card.md``."""
    student, repo = report["student"], facts.repo
    inputs = config.get("inputs") or {}
    return {
        "title": facts.name,
        "origin": origin(report, facts),
        "bits": bits(student),
        "data": data(report),
        "picture": "\n![Synthetic images](images.png)\n\n*Some of the synthetic images.*\n" if "images.png" in facts.files else "",
        "table": table(report, facts.files),
        "measured": said(report, facts, accuracies),
        "repo": repo,
        "load": batch(inputs) + _LOAD.format(repo=repo),
        "exported": exported(facts),
        "made": made(report),
        "again": again(report),
        "recipe": recipe.strip(),
        "limits": "\n".join(f"- {line}" for line in limits(report, facts)),
    }


def origin(report: Mapping[str, Any], facts: Facts) -> str:
    """The teacher, with a link if it is on the Hub."""
    ref, count = report["teacher"]["ref"], report["teacher"].get("params")
    name = f"[{facts.base_model}]({constants.ENDPOINT}/{facts.base_model})" if facts.base_model else f"`{ref}`"
    what = "image classifier" if not _places(report["teacher"]) else "network"
    return f"The {what} {name}" + (f" of {count:,} parameters" if isinstance(count, int) else "")


def bits(student: Mapping[str, Any]) -> str:
    """The bit widths in words."""
    weights, acts = student["weight_bits"], student["act_bits"]
    if acts is None:
        return f"{weights}-bit weights (W{weights}, activations in float)"
    return f"{weights}-bit weights and {acts}-bit activations (W{weights}A{acts})"


def data(report: Mapping[str, Any]) -> str:
    """The images that were used instead of training data."""
    synth = (report["recipe"].get("synth") or {}).get("name", "none")
    if synth == "none":
        return "Its teacher's weights were all that was used."
    return f"Synthetic images by `{synth}` stood in for the training data."


def table(report: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """The metrics of teacher and student side by side."""
    own, metrics = report["teacher"]["metrics"], report["student"]["metrics"]
    rows = [
        (_ROWS[key].replace("$unit ", _places(report["teacher"])), _figure(own.get(key)), _figure(metrics[key]))
        for key in _ROWS
        if isinstance(metrics.get(key), (int, float))
    ]
    rows.append(("size of the weights", _size(report["teacher"].get("size_bytes")), _size(report["student"]["size_bytes"])))
    rows += [(f"size of `{name}`", "", _size(sizes[name])) for name in ("model.onnx", "model.bin") if name in sizes]
    return "\n".join(["| | teacher | student |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def said(report: Mapping[str, Any], facts: Facts, accuracies: Mapping[str, float]) -> str:
    """The data that accuracy was measured on."""
    if not accuracies:
        return "**Its accuracy on real images was not measured.**"
    on = f" of `{facts.dataset}`" if facts.dataset else ""
    own = report["teacher"]["metrics"]
    both = "teacher and student alike" if own else "the student only"
    text = f"Accuracy on {report['images_evaluated']} real images{on}, {both}. They were used to measure, never to quantize."
    lost = [(key, own[key] - value) for key, value in accuracies.items() if isinstance(own.get(key), (int, float))][:1]
    return text + "".join(f" The student loses {points:.2f} points." for _, points in lost if points > 0)


def batch(inputs: Mapping[str, Any]) -> str:
    """Code that makes an input from an image; empty if the student has no input spec."""
    shape, mean, std = (list(inputs.get(key) or ()) for key in ("shape", "mean", "std"))
    if len(shape) != 3 or shape[0] not in (1, 3):
        return _BARE
    values = {key: ", ".join(f"{number:.6g}" for number in numbers) for key, numbers in (("mean", mean), ("std", std))}
    return _BATCH.format(mode="RGB" if shape[0] == 3 else "L", channels=shape[0], height=shape[1], width=shape[2], **values)


def exported(facts: Facts) -> str:
    """How to run the exported files, and whether they are verified."""
    parts = [part.format(repo=facts.repo) for part, name in ((_ONNX, "model.onnx"), (_OPENVINO, "model.xml")) if name in facts.files]
    return "".join([*parts, f"\n{proof(facts.proof)}\n"]) if parts else ""


def proof(found: Mapping[str, Any] | None) -> str:
    """Whether the exported file computes what was measured."""
    if found is None:
        return "**Not verified:** nobody has checked that the exported files compute what was measured above; `zsq verify` does."
    share, count, runtime = found.get("argmax_agreement"), found.get("images"), found.get("runtime") or "its runtime"
    first = "Verified:" if found.get("verified", True) else "**Not verified:**"
    source = f" ({found['source']})" if found.get("source") else ""
    file = _FILES.get(str(found.get("exported")), "the exported file")
    counted = f"{_places(found)}{count} images{source}"
    text = f"{first} in {runtime}, `{file}` gives the measured student's answer on {_figure(share)} % of {counted}"
    far = found.get("max_abs_diff")
    of = f", of logits up to {found['spread']:.3g}" if isinstance(found.get("spread"), (int, float)) else ""
    return text + (f"; logits differ by {far:.3g} at most{of}." if isinstance(far, (int, float)) else ".")


def made(report: Mapping[str, Any]) -> str:
    """Choices, time and machine."""
    recipe = report["recipe"]
    chains = {"quantizer": recipe.get("quant"), "calibration": recipe.get("calib"), "tuning": recipe.get("tune")}
    names = {
        key: [e["name"] for e in (value if isinstance(value, list) else [value or {}]) if "name" in e] for key, value in chains.items()
    }
    chosen = "; ".join(f"{key} {', '.join(f'`{name}`' for name in found)}" for key, found in names.items() if found)
    machine = report.get("hardware") or {}
    place = machine.get("gpu") or machine.get("cpu") or ""
    took = f", in {report['wall_s']:.0f} s" + (f" on {place}" if place else "") if isinstance(report.get("wall_s"), (int, float)) else ""
    return f"{chosen[:1].upper()}{chosen[1:]}; scheme `{report['student']['scheme']}`, seed {report['seed']}{took}."


def again(report: Mapping[str, Any]) -> str:
    """How to repeat the run, and what is needed for it."""
    recipe = report["recipe"]
    missing = [(recipe.get("teacher") or {}).get("weights"), *(entry.get("ref") for entry in recipe.get("eval") or ())]
    names = " and ".join(f"`{name}`" for name in missing if name)
    needs = f" (it needs {names}, not in this repository)" if names else ""
    return f"`zsq run --recipe recipe.yaml` repeats the run{needs}; `report.json` holds every figure."


def limits(report: Mapping[str, Any], facts: Facts) -> list[str]:
    """The limits of this student."""
    student = report["student"]
    found = ["`zsq.load` computes the quantized values in floating point: the same numbers as integers give, not their speed."]
    if isinstance(student["weight_bits"], str) or student["weight_bits"] < 8:
        found.append("Weights below 8 bits save download size; on CPUs they run no faster than 8 bits.")
    if not set(_FILES.values()) & set(facts.files):
        found.append("Not verified in an integer runtime: no exported file is here; `zsq export` makes one.")
    if "model.onnx" in facts.files and student["scheme"] != "deploy":
        found.append(f"Scheme `{student['scheme']}` is not integer from end to end: `model.onnx` runs partly in float.")
    if report.get("stopped"):
        found.append("The budget of time ended the run early.")
    if not facts.license:
        found.append("Its licence is that of its teacher, which is not known here.")
    return found


def _places(told: Mapping[str, Any]) -> str:
    """What comes before the images that answers are counted of: ``the pixels of``, nothing where an image has one answer."""
    unit = told.get("unit", "images")
    return "" if unit == "images" else f"the {unit} of "


def _figure(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else ""


def _size(count: Any) -> str:
    if not isinstance(count, (int, float)):
        return ""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
