"""The model card: front matter that the Hub indexes, and a text filled from the report. Says what was measured, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, constants

from zsq.errors import FileError

#: Metrics that are an accuracy on real images, with their name on the Hub; values in percent.
_ACCURACIES = {"top1": "top-1 (%)", "top5": "top-5 (%)"}


def write(report: Mapping[str, Any], config: Mapping[str, Any], recipe: str, repo: str, *, base_model: str | None = None,
          license: str | None = None, dataset: str | None = None, author: str | None = None, picture: bool = False) -> str:  # fmt: skip
    """The card as text, its metadata validated by the client.

    Args:
        report: ``report.json``.
        config: ``config.json``.
        recipe: ``recipe.yaml``, as text.
        repo: ``ORG/NAME`` it will be published as.
        base_model: The teacher on the Hub, where it is there.
        license: That of the teacher; left out when unknown, never guessed.
        dataset: What the accuracy was measured on; without it no ``model-index`` is written.
        author: Who pushes.
        picture: Whether ``images.png`` lies beside.

    Raises:
        FileError: When the metadata is not valid.
    """
    teacher, student = report["teacher"], report["student"]
    width, acts = student["weight_bits"], student["act_bits"] or 32
    bits = f"W{width}A{acts}"
    name = repo.partition("/")[2]
    synth = (report["recipe"].get("synth") or {}).get("name", "none")
    shown = {key: value for key, value in student["metrics"].items() if isinstance(value, (int, float))}
    accuracies = {key: shown[key] for key in _ACCURACIES if key in shown} if report["images_evaluated"] else {}
    fields: dict[str, Any] = {
        "license": license,
        "library_name": "zsq",
        "pipeline_tag": "image-classification",
        "tags": ["zsq", "image-classification", "quantization", "zero-shot-quantization", "data-free", f"int{width}", bits.lower(),
                 f"synth:{synth}", f"protocol:{student['protocol']}"],
    }  # fmt: skip
    if base_model:
        fields |= {"base_model": base_model, "base_model_relation": "quantized"}
    if author:
        fields["quantized_by"] = author
    if dataset and accuracies:
        results = [
            EvalResult("image-classification", dataset, dataset, "accuracy", value, metric_name=_ACCURACIES[key],
                       dataset_args={"images": report["images_evaluated"]})
            for key, value in accuracies.items()
        ]  # fmt: skip
        fields |= {"model_name": name, "eval_results": results}
    rows = [f"| {key} | {_figure(teacher['metrics'].get(key))} | {_figure(value)} |" for key, value in shown.items()]
    size = f"| bytes | {teacher.get('size_bytes', '')} | {student['size_bytes']} |"
    shape = (config.get("inputs") or {}).get("shape")
    text = Template((Path(__file__).parent / "card.md").read_text(encoding="utf-8")).substitute(
        title=name,
        origin=f"[{base_model}]({constants.ENDPOINT}/{base_model})" if base_model else f"`{teacher['ref']}`",
        bits=bits,
        protocol=student["protocol"],
        seed=report["seed"],
        picture="\n![Synthetic images that it was made with](images.png)\n" if picture else "",
        table="\n".join(["| | teacher | student |", "|---|---|---|", *rows, size]),
        measured=f"top-1 and top-5, where given, in percent of {report['images_evaluated']} real images"
        + (f" ({dataset}); they were used to measure, never to quantize." if dataset else "; they were used to measure, never to quantize.")
        if accuracies
        else "**Its accuracy on real images was not measured.**",
        repo=repo,
        inputs=f"takes (N, {', '.join(map(str, shape))}), normalised as the teacher's: `inputs` in config.json"
        if shape
        else "see config.json",
        recipe=recipe.strip(),
        versions=", ".join(f"{key} {value}" for key, value in sorted(report["versions"].items())),
        more="- The budget of time ended the run early.\n" if report.get("stopped") else "",
    )
    data = ModelCardData(ignore_metadata_errors=False, **{key: value for key, value in fields.items() if value is not None})
    card = f"---\n{data.to_yaml()}\n---\n\n{text.rstrip()}\n"
    check(card)
    return card


def check(card: str) -> None:
    """Refuse a card whose metadata the client does not read back as it stands.

    Raises:
        FileError: With the client's reason.
    """
    try:
        data = ModelCard(card, ignore_metadata_errors=False).data
        if data.to_dict().get("library_name") != "zsq":
            raise ValueError("no library_name")
    except Exception as error:  # whatever the client and its YAML reader raise
        raise FileError(
            f"the model card's metadata is not valid: {error}", "README.md", "look at report.json: is it one of `zsq run`?"
        ) from error


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else ""
