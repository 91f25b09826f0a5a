"""Networks of timm, torchvision and transformers, all the way: teacher, W8A8 student for deployment, saved, loaded, exported, verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import Loopback
from random_nets import CLASSES, SPEC, SqueezeNext, checkpoint, publish, save_photos, settled, timm_files, transformers_files

from zsq_cli.app import main

#: Verified on so many images: one that differs is too much.
IMAGES = 32
#: Height and width of images; a report looks at fewer synthetic ones of more than 64 x 64.
SIZE = 72


def deployed(capsys: pytest.CaptureFixture[str], folder: Path, size: int, *teacher: str) -> None:
    """Run, load, export and verify a W8A8 student of the teacher."""
    photos = save_photos(folder.with_suffix(".npz"), size, IMAGES)
    chain = ["--synth", "noise", "--quant", "uniform8", "--calib", "minmax", "--tune", "none", "--eval", f"npz:{photos}"]
    sets = ["quant.scheme=deploy", "calib.batches=1", "run.batch_size=16"]
    words = ["run", *teacher, *chain, *(word for value in sets for word in ("--set", value))]
    assert main([*words, "--export", "safetensors", "--export", "onnx", "--out", str(folder)]) == 0
    report = json.loads((folder / "report.json").read_text())
    assert report["teacher"]["metrics"]["top1"] == 100 and report["student"]["metrics"]["top1"] >= 90
    capsys.readouterr()
    code = main(["verify", str(folder), "--npz", str(photos), "--images", str(IMAGES), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0, {key: result[key] for key in ("argmax_agreement", "max_abs_diff", "spread", "first", "floating")}
    assert result["argmax_agreement"] >= 99.9 and result["images"] == IMAGES and result["max_abs_diff"] < 0.25 * result["spread"]
    assert len(result["integer"]) > 3 and not result["floating"], "a convolution calculates in float"


def own(file: Path, size: int) -> list[str]:
    """Flags for a checkpoint of one's own."""
    values = {"shape": f"3,{size},{size}", "classes": CLASSES, **{key: ",".join(map(str, numbers)) for key, numbers in SPEC.items()}}
    return ["--weights", str(file), *(word for key, value in values.items() for word in ("--set", f"teacher.{key}={value}"))]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet50", SIZE),
        ("mobilenetv2_100", SIZE),
        ("efficientnet_lite0", SIZE),
        ("inception_v3", 80),
        ("regnetx_002", SIZE),
        ("regnety_002", SIZE),
    ],
)
def test_timm(timm: Any, name: str, size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    file = checkpoint(settled(timm.create_model(name, num_classes=CLASSES), size), tmp_path / "own.safetensors")
    deployed(capsys, tmp_path / "run", size, f"timm:{name}", *own(file, size))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", SIZE),
        ("mobilenet_v2", SIZE),
        ("shufflenet_v2_x1_0", SIZE),
        ("squeezenet1_1", SIZE),
        ("inception_v3", 80),
        ("regnet_y_400mf", SIZE),
    ],
)
def test_torchvision(torchvision: Any, name: str, size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    more = {"init_weights": False} if name == "inception_v3" else {}
    file = checkpoint(
        settled(torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **more), size), tmp_path / "own.safetensors"
    )
    deployed(capsys, tmp_path / "run", size, f"torchvision:{name}", *own(file, size))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "regnet"])
def test_transformers(transformers: Any, hub: Loopback, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = SIZE
    torch.manual_seed(0)
    configs = {
        "resnet18": lambda t: t.ResNetConfig(
            embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=CLASSES
        ),
        "resnet50": lambda t: t.ResNetConfig(num_labels=CLASSES),
        "mobilenet_v2": lambda t: t.MobileNetV2Config(num_labels=CLASSES, image_size=size),
        "regnet": lambda t: t.RegNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 160, 384], depths=[1, 2, 3, 2], groups_width=16, layer_type="x", num_labels=CLASSES
        ),
    }
    module = settled(transformers.AutoModelForImageClassification.from_config(configs[name](transformers)), size)
    publish(hub, f"org/{name}", transformers_files(module, tmp_path / "saved", size))
    deployed(capsys, tmp_path / "run", size, f"hub:org/{name}")


def test_timm_from_the_hub(timm: Any, hub: Loopback, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    module = settled(timm.create_model("resnet18", num_classes=CLASSES), SIZE)
    commit = publish(hub, "timm/resnet18.a1_in1k", timm_files(module, "resnet18", SIZE))
    deployed(capsys, tmp_path / "run", SIZE, "timm:resnet18.a1_in1k")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["teacher"]["ref"] == f"timm:resnet18.a1_in1k@{commit}"


def test_a_network_in_the_manner_of_squeezenext(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    file = checkpoint(settled(SqueezeNext(), SIZE), tmp_path / "own.safetensors")
    file.with_suffix(".json").write_text(json.dumps({"input": {"shape": [3, SIZE, SIZE], **SPEC}, "classes": CLASSES}))
    deployed(capsys, tmp_path / "run", SIZE, f"py:{Path(__file__).parent / 'random_nets.py'}:SqueezeNext", "--weights", str(file))
