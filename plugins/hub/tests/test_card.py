"""The model card: metadata that the client accepts, and nothing that was not measured or chosen."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hubtest import answers, card_of, content, report_of
from huggingface_hub import ModelCard
from loopback import Loopback, Repo
from PIL import Image
from zsq_hub.push import hub_name, push

import zsq
from zsq_cli.app import main


def keep(run: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Write down what ``verify`` found, with the checksums of the files as they lie there."""
    told = {**found, "files": {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in found["files"]}}
    (run / "verify.json").write_text(json.dumps(told))
    return told


def teacher_card(hub: Loopback, *lines: str) -> None:
    hub.repos["timm/tiny"] = Repo()
    hub.repos["timm/tiny"].commit({"README.md": "\n".join(["---", *lines, "---", ""]).encode()})


def exported(run: Path, folder: Path, **proof: Any) -> Path:
    """A copy of the run with an exported file, and what `zsq verify` said of it."""
    copy = Path(shutil.copytree(run, folder))
    (copy / "model.onnx").write_bytes(b"a graph")
    said = {"exported": "onnx", "images": 256, "runtime": "ONNX Runtime 1.31", "argmax_agreement": 100.0, "max_abs_diff": 0.00125}
    keep(copy, {**said, "verified": True, "files": ["model.onnx"], **proof})
    return copy


def test_metadata_and_text(hub: Loopback, run: Path) -> None:
    teacher_card(hub, "license: bsd-3-clause")
    push(run, "org/tiny", base_model="timm/tiny", dataset="tiny-val")
    text, meta = card_of(hub)
    report = report_of(run)
    assert meta["license"] == "bsd-3-clause", "inherited, not guessed"
    assert (meta["base_model"], meta["base_model_relation"], meta["library_name"]) == ("timm/tiny", "quantized", "zsq")
    assert meta["pipeline_tag"] == "image-classification" and meta["quantized_by"] == "ann" and "datasets" not in meta
    assert {"w4a4", "int4", "synth:noise", "zero-shot-quantization", f"scheme:{report['student']['scheme']}"} <= set(meta["tags"])
    (result,) = meta["model-index"][0]["results"]
    assert result["dataset"] == {"name": "tiny-val", "type": "tiny-val", "args": {"images": 20}}
    assert result["metrics"] == [{"type": "accuracy", "name": "top-1 (%)", "value": report["student"]["metrics"]["top1"]}]
    assert result["source"]["url"] == f"{hub.url}/org/tiny/blob/main/report.json"
    own, figure = (report[side]["metrics"]["top1"] for side in ("teacher", "student"))
    assert f"| top-1 accuracy, % | {own:.2f} | {figure:.2f} |" in text
    for part in (
        'zsq.load("org/tiny")',
        "(images.png)",
        "20 real images of `tiny-val`",
        "## Limits",
        "by `noise`",
        "seed 0",
    ):
        assert part in text
    assert "Not verified in an integer runtime" in text
    assert "model.onnx" not in text and "onnx" not in meta["tags"], "there is none"


def test_the_code_of_the_card_runs_and_makes_what_the_student_takes(
    hub: Loopback, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, "org/tiny")
    code = card_of(hub)[0].partition("```python\n")[2].partition("```")[0]
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "FILE", "PNG")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    expected = ((torch.tensor(pixels).float() / 255 - 0.5) / 0.2).permute(2, 0, 1)[None]
    assert torch.allclose(torch.from_numpy(names["batch"]), expected, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(names["logits"], zsq.load(run)(torch.from_numpy(names["batch"])))


def test_a_licence_of_its_own_comes_with_name_and_link(hub: Loopback, run: Path) -> None:
    teacher_card(hub, "license: other", "license_name: own", "license_link: LICENSE.md")
    push(run, "org/tiny", base_model="timm/tiny")
    meta = card_of(hub)[1]
    assert (meta["license"], meta["license_name"], meta["license_link"]) == ("other", "own", "LICENSE.md")


def test_without_base_model_nothing_is_claimed_of_one(run: Path, tmp_path: Path) -> None:
    push(run, "org/tiny", dry_run=tmp_path / "out")
    meta = ModelCard.load(tmp_path / "out/README.md").data.to_dict()
    assert not {"license", "base_model", "base_model_relation", "model-index"} & meta.keys()


def with_figures(run: Path, folder: Path, own: dict[str, float], metrics: dict[str, float], images: int) -> ModelCard:
    """The card of a copy of the run with other figures."""
    copy = Path(shutil.copytree(run, folder / "copy"))
    report = report_of(copy)
    report["student"]["metrics"], report["teacher"]["metrics"], report["images_evaluated"] = metrics, own, images
    (copy / "report.json").write_text(json.dumps(report))
    push(copy, "org/tiny", dry_run=folder / "out", dataset="tiny-val")
    return ModelCard.load(folder / "out/README.md")


def test_what_was_lost_is_said(run: Path, tmp_path: Path) -> None:
    text = with_figures(run, tmp_path, {"top1": 91.5}, {"top1": 53.25}, 20).text
    assert "The student loses 38.25 points." in text and "| top-1 accuracy, % | 91.50 | 53.25 |" in text


def test_an_accuracy_that_was_not_measured_is_not_given(run: Path, tmp_path: Path) -> None:
    card = with_figures(run, tmp_path, {}, {"agreement": 90.0}, 0)
    assert "was not measured" in card.text and "top-1" not in card.text
    assert "model-index" not in card.data.to_dict()


def test_a_proof_is_told_and_published(hub: Loopback, run: Path, tmp_path: Path) -> None:
    copy = exported(run, tmp_path / "e")
    push(copy, "org/tiny", proof=zsq.SavedRun(copy).proof)
    text, meta = card_of(hub)
    assert "Verified: in ONNX Runtime 1.31" in text and "100.00 % of 256 images" in text and "0.00125" in text
    assert "onnx" in meta["tags"] and 'hf_hub_download("org/tiny", "model.onnx")' in text
    assert json.loads(content(hub, "verify.json"))["images"] == 256


def test_openvinos_files_are_told_of_as_well(hub: Loopback, run: Path, tmp_path: Path) -> None:
    copy = exported(run, tmp_path / "e", exported="openvino", runtime="openvino 2025")
    (copy / "model.onnx").unlink()
    (copy / "model.xml").write_bytes(b"a graph")
    (copy / "model.bin").write_bytes(b"its weights")
    proof = keep(copy, {**json.loads((copy / "verify.json").read_text()), "files": ["model.xml", "model.bin"]})
    push(copy, "org/tiny", proof=proof)
    text, meta = card_of(hub)
    assert "Verified: in openvino 2025, `model.xml`" in text and "openvino.compile_model" in text and "onnxruntime" not in text
    assert "openvino" in meta["tags"] and "onnx" not in meta["tags"]


def test_without_a_proof_of_this_very_file_it_says_not_verified(hub: Loopback, run: Path, tmp_path: Path) -> None:
    copy = exported(run, tmp_path / "e")
    (copy / "model.onnx").write_bytes(b"another graph")
    assert main(["push", str(copy), "org/tiny", "--no-verify"]) == 0
    assert "**Not verified:** nobody has checked" in card_of(hub)[0]
    assert "verify.json" not in hub.repos["org/tiny"].commits[hub.repos["org/tiny"].refs["main"]]


def test_a_proof_that_failed_is_told_as_one(hub: Loopback, run: Path, tmp_path: Path) -> None:
    copy = exported(run, tmp_path / "e", verified=False, argmax_agreement=94.5)
    push(copy, "org/tiny", proof=zsq.SavedRun(copy).proof)
    assert "**Not verified:** in ONNX Runtime 1.31" in card_of(hub)[0] and "94.50 %" in card_of(hub)[0]


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("hub:org/a@c0ffee", "org/a"),
        ("timm:resnet18.a1_in1k@c0ffee", "timm/resnet18.a1_in1k"),
        ("transformers:microsoft/resnet-18@c0ffee", "microsoft/resnet-18"),
        ("py:a.b:c", None),
        ("torchvision:resnet18", None),
        ("hub:", None),
    ],
)
def test_base_model_of_a_reference(ref: str, name: str | None) -> None:
    assert hub_name(ref) == name


def test_the_picture_shows_the_synthetic_images_in_pixels(run: Path) -> None:
    with Image.open(run / "images.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.std() > 20, "noise, not a blank"
    assert answers(zsq.load(run)).shape[0] == 16
