"""The model card: front matter for the Hub, and a text from the report. It states only what was measured or chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, constants

from zsq.errors import FileError
from zsq_hub import card_text
from zsq_hub.card_text import Facts

#: Metrics that are an accuracy on real images, with their name on the Hub; values in percent.
_ACCURACIES = {"top1": "top-1 (%)", "top5": "top-5 (%)"}


def write(report: Mapping[str, Any], config: Mapping[str, Any], recipe: str, facts: Facts) -> str:
    """The card as text, its metadata validated by the client.

    Args:
        report: ``report.json``.
        config: ``config.json``.
        recipe: ``recipe.yaml``, as text.
        facts: What else is known.

    Raises:
        FileError: If the metadata is not valid.
    """
    text = Template((Path(__file__).parent / "card.md").read_text(encoding="utf-8"))
    body = text.substitute(card_text.fill(report, config, recipe, facts, measured(report)))
    data = ModelCardData(ignore_metadata_errors=False, **metadata(report, facts))
    card = f"---\n{data.to_yaml()}\n---\n\n{body.rstrip()}\n"
    check(card)
    return card


def measured(report: Mapping[str, Any]) -> dict[str, float]:
    """The student's accuracies on real images, by the name of the metric."""
    metrics = report["student"]["metrics"] if report["images_evaluated"] else {}
    return {key: metrics[key] for key in _ACCURACIES if isinstance(metrics.get(key), (int, float))}


def metadata(report: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The front matter for the client; unknown values are left out."""
    student = report["student"]
    synth = (report["recipe"].get("synth") or {}).get("name", "none")
    width, acts = student["weight_bits"], student["act_bits"] or 32
    exported = sorted({Path(name).suffix[1:] for name in facts.files} & {"onnx", "xml"})
    kind = ["image-classification"] if report["teacher"].get("unit", "images") == "images" else []
    fields: dict[str, Any] = {
        **(facts.license or {}),
        "library_name": "zsq",
        **({"pipeline_tag": kind[0]} if kind else {}),
        "tags": ["zsq", *kind, "quantization", "zero-shot-quantization", "data-free",
                 f"int{width}" if isinstance(width, int) else "mixed-precision", f"w{width}a{acts}",
                 *({"onnx": "onnx", "xml": "openvino"}[kind] for kind in exported),
                 f"synth:{synth}", f"scheme:{student['scheme']}"],
    }  # fmt: skip
    if facts.base_model:
        fields |= {"base_model": facts.base_model, "base_model_relation": "quantized"}
    if facts.author:
        fields["quantized_by"] = facts.author
    if facts.dataset and (accuracies := measured(report)):
        source = f"{constants.ENDPOINT}/{facts.repo}/blob/main/report.json"
        results = [
            EvalResult("image-classification", facts.dataset, facts.dataset, "accuracy", value, metric_name=_ACCURACIES[key],
                       dataset_args={"images": report["images_evaluated"]}, source_name="zsq run report", source_url=source)
            for key, value in accuracies.items()
        ]  # fmt: skip
        fields |= {"model_name": facts.name, "eval_results": results}
    return fields


def check(card: str) -> None:
    """Refuse a card if the client does not read back the same metadata.

    Raises:
        FileError: With the client's reason.
    """
    try:
        data = ModelCard(card, ignore_metadata_errors=False).data
        if data.get("library_name") != "zsq":
            raise ValueError("no library_name")
    except Exception as error:  # whatever the client and its YAML reader raise
        raise FileError(
            f"the model card's metadata is not valid: {error}", "README.md", "look at report.json: is it one of `zsq run`?"
        ) from error
