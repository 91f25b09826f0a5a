"""docs/format.md is enough to read a student: its own reader finds the codes, scales and values that zsq saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import zsq
from zsq.builtin.options import UniformOptions
from zsq.builtin.safetensors import Safetensors
from zsq.builtin.uniform.layout import DTYPES
from zsq.builtin.uniform.points import LAYERS, ActPoint
from zsq.builtin.uniform.quantizer import Uniform
from zsq.options import Options
from zsq.run.checkpoint import freeze
from zsq.run.saved import FORMAT
from zsq.types import InputSpec, Student, Teacher

SPEC = InputSpec((3, 8, 8), (0.5,) * 3, (0.2,) * 3)
PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


class Every(nn.Module):
    """Layers of several kinds, a BatchNorm, and loose tensors of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.up, self.group, self.fc = nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.Conv2d(6, 3, 1, groups=3), nn.Linear(3, 5)
        self.act = nn.PReLU()
        self.register_buffer("gain", torch.tensor([1.5, -2.0, 3.0]).view(1, 3, 1, 1))
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.register_buffer("mask", torch.tensor([True, False, True]).view(1, 3, 1, 1))
        self.register_buffer("level", torch.tensor(0.5, dtype=torch.float16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(torch.relu(self.bn(self.stem(x))))
        x = self.group(self.up(x)).index_select(1, self.order) * self.gain
        return self.fc(x.masked_fill(self.mask, self.level.float()).mean((2, 3)))  # type: ignore[no-any-return]


def saved(folder: Path, **options: Any) -> Student:
    torch.manual_seed(0)
    teacher = Teacher(Every().eval(), SPEC, task=None)  # type: ignore[arg-type]
    student = Uniform(UniformOptions(**options), None).quantize(teacher, None)  # type: ignore[arg-type]
    with student.observing():
        student.module(torch.randn(8, 3, 8, 8))
    freeze(student)
    manifest = {"teacher": {"ref": "test:1"}, "recipe": {"quant": "uniform"}}
    Safetensors(Options(), SimpleNamespace(teacher=teacher)).export(student, manifest, folder)  # type: ignore[arg-type]
    return student


@pytest.mark.parametrize(
    "options",
    [
        {"weight_bits": 4, "act_bits": 4},
        {"weight_bits": 3, "act_bits": 7, "per_channel": False, "first_bits": 8, "last_bits": 16},
        {"weight_bits": 5, "act_bits": 8, "protocol": "deploy"},
        {"weight_bits": 2, "protocol": "deploy", "act_symmetric": True, "per_channel": False},
    ],
)
def test_the_printed_reader_finds_what_was_saved(tmp_path: Path, reader: Callable[..., Any], options: dict[str, Any]) -> None:
    student = saved(tmp_path, **options)
    config, layers, values = reader(tmp_path)
    assert config["manifest"]["teacher"]["ref"] == "test:1" and config["inputs"]["shape"] == [3, 8, 8]
    modules: dict[str, Any] = dict(student.module.named_modules())
    assert layers.keys() == {path for path, module in modules.items() if type(module) in LAYERS.values()}
    for path, (codes, scales, zeros, weight) in layers.items():
        point = modules[path].weight_point
        assert np.array_equal(codes, point.codes.numpy()) and weight.tobytes() == modules[path].weight.contiguous().numpy().tobytes()
        assert np.array_equal(scales, point.scale.reshape(-1).numpy()) and np.array_equal(zeros, point.zero_point.reshape(-1).numpy())
    held = {**dict(student.module.named_parameters()), **dict(student.module.named_buffers())}
    for path, value in values.items():
        if isinstance(module := modules.get(path), ActPoint):
            (lo, hi), scale, zero = value[0], value[1], value[2]
            assert (lo, hi, scale, zero) == (module.lo, module.hi, module.scale, module.zero_point)
        else:
            assert np.array_equal(value, held[path].numpy()), path
    assert {"gain", "order", "mask", "level", "fc.bias", "up.bias", "bn.running_var"} <= values.keys()
    assert torch.equal(zsq.load(tmp_path)(x := torch.randn(2, 3, 8, 8)), student.module(x))


def test_the_page_names_every_key_tensor_and_type(tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118
    words = {*config, *names, *DTYPES, *LAYERS, *(key for module in config["modules"].values() for key in module)}
    assert [word for word in sorted(words) if f"`{word}`" not in PAGE] == []
    assert f"**format {FORMAT}**" in PAGE
