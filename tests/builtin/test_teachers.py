"""The teacher source ``py``: files and modules, sidecars and options, and what goes wrong with them."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zsq._builtin.options import PyOptions
from zsq._builtin.teachers import Py
from zsq.errors import FileError, ZsqError
from zsq.teachers import teacher_from, to_channels_last
from zsq.testing import teachers
from zsq.types import InputSpec, Teacher

SPEC: dict[str, Any] = {"shape": (3, 8, 8), "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 2.0)}
SIDECAR = {"input": {"shape": [3, 8, 8], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 2]}, "classes": 4}
FILE = """
import torch
from torch import Tensor, nn
from helper import width

def net(classes=4):
    convolution = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU()
    return nn.Sequential(*convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))

made = net()
number = 3

def broken():
    raise RuntimeError("no such luck\\nand more")

def text():
    return "a network, honestly"

def needs(path):
    return net()

def explains():
    from zsq.errors import ZsqError
    raise ZsqError("the weights are not here", "mynet", "fetch them first")

def leaves():
    raise SystemExit(3)
"""


def load(ref: str, **options: Any) -> Teacher:
    return Py(PyOptions(**options), SimpleNamespace(trust_code=False, task=None)).load(ref)  # type: ignore[arg-type]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with ``mynet_here.py``, a helper beside it, and weights with a sidecar."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet_here.py").write_text(FILE)
    (tmp_path / "helper.py").write_text("width = 5\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    state = load("mynet_here.py:net", **SPEC).module.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text(json.dumps(SIDECAR))
    yield tmp_path
    for name in ("mynet_here", "zsq_local_mynet_here", "helper"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("ref", ["mynet_here.py:net", "./mynet_here.py:net", "mynet_here:net", "mynet_here:made"])
def test_file_and_module_forms(here: Path, ref: str) -> None:
    path = list(sys.path)
    teacher = load(ref, weights="w.safetensors")
    assert teacher.inputs.shape == (3, 8, 8) and teacher.inputs.mean == (0.1, 0.2, 0.3) and teacher.inputs.std == (1.0, 1.0, 2.0)
    assert teacher.task.classes == 4 and teacher.head == "5" and teacher.ref == f"py:{ref}" and len(teacher.fingerprint) == 64
    assert not teacher.module.training and not any(p.requires_grad for p in teacher.module.parameters())
    assert sys.path == path


def test_options_win_over_the_sidecar_and_classes_reach_the_factory(here: Path) -> None:
    teacher = load("mynet_here.py:net", classes=7, **{**SPEC, "mean": (0.0, 0.0, 0.0)})
    assert teacher.task.classes == 7 and teacher.inputs.mean == (0.0, 0.0, 0.0)
    assert load("mynet_here.py:net", weights="w.safetensors", std=(3.0, 3.0, 3.0)).inputs.std == (3.0, 3.0, 3.0)


def test_a_factory_draws_the_same_weights_each_time_and_leaves_the_global_generator_alone(here: Path) -> None:
    state = torch.get_rng_state()
    assert load("mynet_here.py:net", **SPEC).fingerprint == load("mynet_here.py:net", **SPEC).fingerprint
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("mynet_here.py", "names no callable"),
        ("mynet_there.py:net", "did you mean 'mynet_here.py'?"),
        ("no_such_module_here:net", "no module 'no_such_module_here'"),
        ("mynet_here.py:nett", "did you mean 'net'?"),
        ("mynet_here.py:number", "not callable"),
        ("mynet_here.py:broken", "RuntimeError: no such luck"),
        ("mynet_here.py:text", "returns a str"),
        ("mynet_here.py:needs", "must work without arguments"),
        ("mynet_here.py:leaves", "SystemExit"),
        ("mynet_here.py:explains", "fetch them first"),
        ("syntax.py:net", "SyntaxError"),
        ("imports.py:net", "ModuleNotFoundError"),
    ],
)
def test_references_that_lead_nowhere(here: Path, ref: str, words: str) -> None:
    (here / "syntax.py").write_text("def net(:\n")
    (here / "imports.py").write_text("import no_such_module_here\n")
    with pytest.raises(ZsqError) as caught:
        load(ref, **SPEC)
    assert words in str(caught.value), str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ({"input": [3, 8, 8]}, "not an object"),
        ({"input": {**SIDECAR["input"], "mean": "0.1"}}, "'mean'"),  # type: ignore[dict-item]
        ({**SIDECAR, "classes": "ten"}, "'classes'"),
        ({"input": {"shape": [3, 8, 8]}}, "no mean, no std"),
        ({"classes": 4}, "no shape, no mean, no std"),
        ({"input": {**SIDECAR["input"], "mean": [0.1]}}, "1 means"),  # type: ignore[dict-item]
        ({"input": {**SIDECAR["input"], "std": [1, 0, 1]}}, "not positive"),  # type: ignore[dict-item]
        ({"input": {**SIDECAR["input"], "shape": [8, 8]}}, "(channels, height, width)"),  # type: ignore[dict-item]
        ({"input": {**SIDECAR["input"], "shape": [1, 8, 8], "mean": [0], "std": [1]}}, "does not run on 1x8x8"),  # type: ignore[dict-item]
    ],
)
def test_sidecars_that_do_not_say_what_is_needed(here: Path, sidecar: Any, words: str) -> None:
    (here / "w.json").write_text(sidecar if isinstance(sidecar, str) else json.dumps(sidecar))
    with pytest.raises(FileError) as caught:
        load("mynet_here.py:net", weights="w.safetensors")
    assert words in str(caught.value), str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_no_spec_at_all_says_where_to_put_one(here: Path) -> None:
    (here / "w.json").unlink()
    with pytest.raises(FileError, match="sidecar STEM") as caught:
        load("mynet_here.py:net", weights="w.safetensors")
    assert "--set teacher.shape" in str(caught.value)


class Announcing(nn.Module):
    """A classifier that carries its input spec, as timm's networks do."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


CFG = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": [1, 1, 2], "num_classes": 1000, "crop_pct": 0.9}


def announcing(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> str:
    """Reference of a network with these attributes."""
    monkeypatch.setitem(sys.modules, "announcing_here", SimpleNamespace(net=lambda: Announcing(**attributes)))
    return "announcing_here:net"


@pytest.mark.parametrize(
    "attributes", [{"pretrained_cfg": CFG}, {"default_cfg": CFG}, {"pretrained_cfg": {"mean": None}, "default_cfg": CFG}]
)
def test_a_network_announces_its_own_spec(monkeypatch: pytest.MonkeyPatch, attributes: dict[str, Any]) -> None:
    teacher = load(announcing(monkeypatch, **attributes))
    assert teacher.inputs == InputSpec((3, 8, 8), (0.5, 0.5, 0.5), (1.0, 1.0, 2.0))
    assert teacher.task.classes == 4  # num_classes is that of the weights training began with


def test_options_and_sidecar_win_over_what_the_network_announces(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = announcing(monkeypatch, pretrained_cfg={**CFG, "mean": "unread"})
    torch.manual_seed(0)
    save_file(Announcing().state_dict(), here / "a.safetensors")
    (here / "a.json").write_text(json.dumps({"input": {"mean": [0.1, 0.2, 0.3], "std": [3, 3, 3]}}))
    teacher = load(ref, weights="a.safetensors", std=(4.0, 4.0, 4.0))
    assert teacher.inputs == InputSpec((3, 8, 8), (0.1, 0.2, 0.3), (4.0, 4.0, 4.0))


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ("resnet18", "no shape, no mean, no std"),
        ({}, "no shape, no mean, no std"),
        ({"input_size": (3, 8, 8)}, "no mean, no std"),
        ({**CFG, "mean": 0.5}, "'mean' in the network's pretrained_cfg is 0.5"),
        ({**CFG, "input_size": "3x8x8"}, "--set teacher.shape="),
        ({**CFG, "input_size": (8, 8)}, "(channels, height, width)"),
        ({**CFG, "std": (1, 0, 1)}, "not positive"),
    ],
)
def test_announcements_that_do_not_say_what_is_needed(monkeypatch: pytest.MonkeyPatch, cfg: Any, words: str) -> None:
    with pytest.raises(FileError) as caught:
        load(announcing(monkeypatch, pretrained_cfg=cfg))
    assert words in str(caught.value), str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_layer_with_a_module_for_its_padding_is_no_block() -> None:
    class Padded(nn.Conv2d):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.pad = nn.ZeroPad2d(1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.pad(x))

    blocks = nn.Sequential(*(nn.Sequential(Padded(4, 4, 3), nn.ReLU()) for _ in range(2)))
    network = nn.Sequential(Padded(3, 4, 3), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    teacher = teacher_from(network, "x", SPEC, None)
    assert teacher.taps == teacher.blocks == ("1.0", "1.1")


def test_announced_classes_are_checked_by_a_forward(here: Path) -> None:
    (here / "w.json").write_text(json.dumps({**SIDECAR, "classes": 6}))
    with pytest.raises(FileError, match="outputs 4 classes, but 6 were declared"):
        load("mynet_here:made", weights="w.safetensors")


def test_outputs_that_are_no_logits() -> None:
    for odd in (nn.Conv2d(3, 4, 3), nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Flatten(0))):
        with pytest.raises(FileError, match="should give logits"):
            teacher_from(odd, "py:odd", SPEC, None)
    infinite = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    nn.init.constant_(infinite[1].bias, float("inf"))
    with pytest.raises(FileError, match="not finite"):
        teacher_from(infinite, "py:odd", SPEC, None)


class Unit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x)


class Staged(nn.Module):
    """Stages, a stage that is never called, and a classifier of several layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.stage1 = nn.Sequential(Unit(), Unit())
        self.stage2 = nn.Sequential(Unit())
        self.aux = nn.Sequential(Unit())
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))


def test_taps_blocks_and_head_are_found() -> None:
    teacher = teacher_from(Staged(), "py:x", SPEC, 4)
    assert teacher.taps == ("stage1", "stage2")
    assert teacher.blocks == ("stage1.0", "stage1.1", "stage2.0")
    assert teacher.head == "classifier.3"
    features = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), Unit(), Unit()), nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    teacher = teacher_from(features, "py:x", SPEC, None)
    assert teacher.taps == ("0.1", "0.2") == teacher.blocks
    assert teacher.head == "1" and teacher.task.classes == 4  # a 1x1 convolution that gives the classes


def test_a_network_in_wrappers_is_tapped_at_its_stages() -> None:
    stage = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(2)]
    inner = nn.Sequential(
        OrderedDict(stem=nn.Conv2d(3, 3, 1), stages=nn.Sequential(*stage), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    )
    model = nn.Sequential(OrderedDict(network=nn.Sequential(OrderedDict(body=Called(inner), head=nn.Linear(3, 4)))))
    assert teacher_from(model, "zoo:x", SPEC, 4).taps == ("network.body.inner.stages.0", "network.body.inner.stages.1")


class Called(nn.Module):
    """A network around another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


def test_fields_win_over_what_is_found() -> None:
    teacher = teacher_from(teachers.tiny(), "zoo:x", SPEC, 4, taps=("bn1",), labels=("a", "b", "c", "d"), evaluation="npz:x")
    assert teacher.taps == ("bn1",) and teacher.blocks == ("block",) and teacher.labels[0] == "a" and teacher.evaluation == "npz:x"


class Viewing(nn.Module):
    """A forward that needs plain tensors: ``view`` refuses those in channels_last."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.conv, self.fc, self.first = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(192 if first else 256, 5), first

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.first else self.conv(x)
        return self.fc(x.view(x.size(0), -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("first", [True, False])
def test_a_network_that_needs_plain_tensors_gets_them(first: bool) -> None:
    torch.manual_seed(0)
    module = Viewing(first).eval()
    x = torch.randn(3, 3, 8, 8)
    expected = module(x)
    teacher = teacher_from(module, "py:x", {"shape": (3, 8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3}, None)
    to_channels_last(teacher.module, torch.device("cpu"))
    assert teacher.module.conv.weight.is_contiguous()  # type: ignore[union-attr]
    for inputs in (x, x.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(teacher.module(inputs), expected)
