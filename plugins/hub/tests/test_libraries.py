"""Networks of other libraries on the Hub: who reads them, what they say of themselves, what is refused."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from loopback import Loopback
from random_nets import CLASSES, SPEC, publish, timm_files, transformers_files
from zsq_hub.repository import library_of
from zsq_hub.source import Hub

from zsq.errors import ComponentError, FileError, OptionError
from zsq.options import InputOptions
from zsq.testing import FakeDist, world
from zsq.testing.world import Manager
from zsq.types import Teacher

LAB = """
from zsq import Component, hookimpl

@hookimpl
def zsq_readers():
    yield Component("lab", "zsq_lab:Lab", summary="Networks of our lab.")

class Lab:
    def __init__(self, options, ctx):
        pass
    def read(self, repository):
        return f"lab reads {repository.name}"
"""


def load(ref: str, trust_code: bool = False, **options: Any) -> Teacher:
    return Hub(InputOptions(**options), world.make_context(Path()).with_(trust_code=trust_code)).load(ref)


@pytest.fixture
def network(timm: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    found: torch.nn.Module = timm.create_model("resnet10t", num_classes=CLASSES).eval()
    return found


@pytest.mark.parametrize(
    ("config", "library"),
    [
        ({"library_name": "lab", "architecture": "x"}, "lab"),
        ({"format": 1, "sha256": "00", "graph": []}, "zsq"),
        ({"architecture": "resnet18", "num_classes": 10}, "timm"),
        ({"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}, "transformers"),
        ({"hidden": 3}, ""),
    ],
)
def test_a_configuration_tells_its_library(config: dict[str, Any], library: str) -> None:
    assert library_of(config) == library


def test_a_network_of_timm(hub: Loopback, network: torch.nn.Module) -> None:
    files = timm_files(network, "resnet10t", 64)
    files["README.md"] = b"---\nlicense: bsd-3-clause\n---\n"
    commit = publish(hub, "org/net", files)
    teacher = load("org/net")
    assert teacher.ref == f"hub:org/net@{commit}"
    assert teacher.inputs.shape == (3, 64, 64) and list(teacher.inputs.mean) == SPEC["mean"] and list(teacher.inputs.std) == SPEC["std"]
    assert teacher.task.classes == CLASSES and teacher.labels[3] == "n00000003" and teacher.license == "bsd-3-clause"
    assert teacher.taps == ("conv1", "layer1", "layer2", "layer3", "layer4") and teacher.head == "fc"
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(teacher.module(images), network(images), atol=1e-4)
    assert load("org/net", shape=(3, 96, 96)).inputs.shape == (3, 96, 96)


def test_a_revision_is_what_it_was(hub: Loopback, network: torch.nn.Module) -> None:
    first = publish(hub, "org/net", timm_files(network, "resnet10t", 64))
    network.get_submodule("fc").weight.data.mul_(2)  # type: ignore[operator, union-attr]
    second = publish(hub, "org/net", timm_files(network, "resnet10t", 64))
    assert load(f"org/net@{first}").fingerprint != load("org/net").fingerprint == load(f"org/net@{second}").fingerprint


def test_what_is_in_the_cache_needs_no_network(hub: Loopback, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, "org/net", timm_files(network, "resnet10t", 64))
    online = load("org/net")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    offline = load("org/net")
    assert offline.fingerprint == online.fingerprint and offline.ref == online.ref and not hub.requests


def test_a_pickle_is_read_only_where_it_is_trusted(hub: Loopback, network: torch.nn.Module) -> None:
    files, stored = timm_files(network, "resnet10t", 64), io.BytesIO()
    torch.save(network.state_dict(), stored)
    del files["model.safetensors"]
    publish(hub, "org/old", {**files, "pytorch_model.bin": stored.getvalue()})
    with pytest.raises(FileError, match=r"no model\.safetensors") as refused:
        load("org/old")
    assert "--trust-code" in refused.value.hint
    assert load("org/old", trust_code=True).task.classes == CLASSES


def test_a_configuration_cannot_make_the_library_load_something(hub: Loopback, network: torch.nn.Module, tmp_path: Path) -> None:
    files = timm_files(network, "resnet10t", 64)
    config: Any = files["config.json"]
    publish(
        hub, "org/odd", {**files, "config.json": {**config, "model_args": {"checkpoint_path": str(tmp_path / "x"), "pretrained": True}}}
    )
    assert load("org/odd").task.classes == CLASSES
    publish(hub, "org/else", {**files, "config.json": {**config, "architecture": "hf-hub:org/odd"}})
    with pytest.raises(FileError, match="has no architecture"):
        load("org/else")
    publish(hub, "org/args", {**files, "config.json": {**config, "model_args": {"colour": "red"}}})
    with pytest.raises(FileError, match="cannot build"):
        load("org/args")


def test_a_reader_that_is_not_installed_is_named(hub: Loopback) -> None:
    publish(hub, "org/net", {"config.json": {"architecture": "resnet18"}})
    manager = Manager.discover(distributions=[found for found in distributions() if found.name != "zsq-timm"])
    with pytest.raises(ComponentError, match="reader 'timm' not found") as refused:
        Hub(InputOptions(), world.make_context(Path(), manager=manager)).load("org/net")
    assert refused.value.hint == "known but not installed: zsq plugins install timm"


def test_an_option_that_the_reader_does_not_have_is_refused(hub: Loopback, fake_dist: Callable[..., FakeDist]) -> None:
    publish(hub, "org/lab", {"config.json": {"library_name": "lab"}})
    fake = fake_dist("zsq-lab", LAB)
    ctx = world.make_context(Path(), manager=Manager.discover(distributions=[fake.distribution]))
    assert Hub(InputOptions(), ctx).load("org/lab") == "lab reads org/lab"
    with pytest.raises(OptionError, match="unknown option 'shape'"):
        Hub(InputOptions(shape=(3, 8, 8)), ctx).load("org/lab")


def test_weights_have_to_fit(hub: Loopback, network: torch.nn.Module) -> None:
    publish(hub, "org/misfit", timm_files(network, "resnet18", 64))
    with pytest.raises(FileError, match="do not fit"):
        load("org/misfit")


def test_a_library_that_is_not_there_is_named(hub: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, "org/lab", {"config.json": {"library_name": "lab"}})
    with pytest.raises(ComponentError, match="reader 'lab' not found") as unknown:
        load("org/lab")
    assert unknown.value.where.startswith("hub:org/lab@") and "timm" in unknown.value.hint
    publish(hub, "org/silent", {"config.json": {"hidden": 3}})
    with pytest.raises(ComponentError, match="does not say what network"):
        load("org/silent")
    publish(hub, "org/nothing", {"README.md": b"hello"})
    with pytest.raises(FileError, match=r"has no config\.json"):
        load("org/nothing")
    publish(hub, "org/broken", {"config.json": b"[1, 2"})
    with pytest.raises(FileError, match="not a JSON object"):
        load("org/broken")
    publish(hub, "org/net", {"config.json": {"architecture": "resnet18"}})
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ComponentError, match="'timm' is not installed") as missing:
        load("org/net")
    assert missing.value.hint == "pip install 'zsq-timm[timm]'"


def test_a_network_of_transformers(transformers: Any, hub: Loopback, tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = {i: f"class {i}" for i in range(CLASSES)}
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", id2label=names)
    network = transformers.AutoModelForImageClassification.from_config(config).eval()
    files = transformers_files(network, tmp_path, 64)
    commit = publish(hub, "org/net", files)
    teacher = load("org/net")
    assert teacher.ref == f"hub:org/net@{commit}" and teacher.labels[3] == "class 3"
    assert teacher.inputs.shape == (3, 64, 64) and list(teacher.inputs.mean) == pytest.approx(SPEC["mean"])
    assert teacher.taps == ("network.resnet.encoder.stages.0", "network.resnet.encoder.stages.1")
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(teacher.module(images), network(images).logits, atol=1e-4)
    told = json.loads(bytes(files["config.json"]))  # type: ignore[arg-type]
    publish(
        hub, "org/code", {**files, "config.json": {**told, "auto_map": {"AutoModelForImageClassification": "net.Net"}}, "net.py": b"1/0"}
    )
    with pytest.raises(FileError, match="would run on loading"):
        load("org/code")
    publish(hub, "org/headless", {**files, "config.json": {**told, "hidden_sizes": [8, 32]}})
    with pytest.raises(FileError, match=r"fit|load"):
        load("org/headless")
