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
from zsq._builtin.safetensors import Safetensors
from zsq.format import FORMAT
from zsq.format._layout import DTYPES
from zsq.grids import LAYERS, ActPoint
from zsq.options import Options, UniformOptions
from zsq.placement import Uniform
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


def saved(folder: Path, network: type[nn.Module] = Every, **options: Any) -> Student:
    torch.manual_seed(0)
    teacher = Teacher(network().eval(), SPEC, task=None)  # type: ignore[arg-type]
    student = Uniform(UniformOptions(**options), None).quantize(teacher, None)  # type: ignore[arg-type]
    with student.observing():
        student.module(torch.randn(8, 3, 8, 8))
    student.freeze()
    manifest = {"teacher": {"ref": "test:1"}, "recipe": {"quant": "uniform"}}
    Safetensors(Options(), SimpleNamespace(teacher=teacher)).export(student, manifest, folder)  # type: ignore[arg-type]
    return student


@pytest.mark.parametrize(
    "options",
    [
        {"weight_bits": 4, "act_bits": 4},
        {"weight_bits": 3, "act_bits": 7, "per_channel": False, "first_bits": 8, "last_bits": 16},
        {"weight_bits": 5, "act_bits": 8, "scheme": "deploy"},
        {"weight_bits": 2, "scheme": "deploy", "act_symmetric": True, "per_channel": False},
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


class Small(nn.Module):
    """Layers that compute in integers: before a BatchNorm and a ReLU, before a clamp alone, and as the last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn, self.second = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)
        self.fc = nn.Linear(24, 5)
        with torch.no_grad():
            self.bn.weight.copy_(torch.tensor([1.3, -0.8, 0.0, 2.0]))
            self.bn.bias.copy_(torch.tensor([0.1, 0.5, 0.3, -0.2]))
            self.bn.running_mean.uniform_(-0.2, 0.2)
            self.bn.running_var.uniform_(0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.second(torch.relu(self.bn(self.first(x)))))
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


def _sums(x: np.ndarray, weight: np.ndarray, stride: int, padding: int, groups: int) -> np.ndarray:
    """A convolution of integers, (N, C, H, W) and (out, C / groups, k, k), in integers."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    parts = zip(np.split(windows, groups, 1), np.split(weight, groups), strict=True)
    return np.concatenate([np.einsum("nchwij,ocij->nohw", part, kernel) for part, kernel in parts], 1)


@pytest.mark.parametrize("bits", [8, 7])
def test_layers_compute_in_integers_as_the_page_says(tmp_path: Path, reader: Callable[..., Any], bits: int) -> None:
    """Written from the section "Integer arithmetic" and nothing else, in NumPy."""
    student = saved(tmp_path, Small, weight_bits=4, act_bits=bits, scheme="deploy")
    config, layers, values = reader(tmp_path)
    assert config["integers"] is True
    modules = config["modules"]
    acts = [node["target"] for node in config["graph"] if modules.get(node["target"], {}).get("type") == "Activation"]
    assert len(acts) == 3
    grids = [(values[path][1], int(values[path][2])) for path in acts]  # scale and zero point, in the order of execution
    x = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)

    def on_grid(x: np.ndarray, scale: np.float32, zero: int) -> np.ndarray:
        return np.clip(np.round(x * (np.float32(1) / scale)), 0 - zero, 2**bits - 1 - zero).astype(np.float32) * scale

    def computed(path: str, y: np.ndarray, s_in: np.float32, s_out: np.float32 | None, norm: str | None, **geometry: int) -> np.ndarray:
        codes, w, _, _ = layers[path]
        w, f = w.astype(np.float64), np.ones(len(codes))
        shift = values[f"{path}.bias"].astype(np.float64) if f"{path}.bias" in values else np.zeros(len(codes))
        if norm is not None:
            moments = ("weight", "bias", "running_mean", "running_var")
            gamma, beta, mean, var = (values[f"{norm}.{name}"].astype(np.float64) for name in moments)
            f = gamma / np.sqrt(var + modules[norm]["eps"])
            shift = beta + (shift - mean) * f
        scale = np.where(f == 0, w, w * np.abs(f))
        bias = np.round(shift / (s_in.astype(np.float64) * scale)).astype(np.int64)
        inputs = np.round(y * (np.float32(1) / s_in)).astype(np.int64)
        weight = codes.astype(np.int64) * np.sign(f).astype(np.int64).reshape(-1, *(1,) * (codes.ndim - 1))
        total = _sums(inputs, weight, **geometry) if geometry else inputs @ weight.T
        wide = (-1, 1, 1) if geometry else (-1,)
        factor = s_in * scale.astype(np.float32)
        if s_out is None:
            return (total + bias.reshape(wide)).astype(np.float32) * factor.reshape(wide)
        return np.round((total + bias.reshape(wide)).astype(np.float32) * (factor / s_out).reshape(wide)) * s_out

    (s0, z0), (s1, z1), (s2, z2) = grids
    y = on_grid(x, s0, z0)
    y = on_grid(np.maximum(computed("first", y, s0, s1, "bn", stride=2, padding=1, groups=1), 0), s1, z1)
    y = on_grid(np.clip(computed("second", y, s1, s2, None, stride=1, padding=0, groups=2), 0, 6), s2, z2)
    expected = computed("fc", y.reshape(16, -1), s2, None, None)
    with torch.no_grad():
        assert zsq.load(tmp_path)(torch.from_numpy(x)).numpy().tobytes() == expected.tobytes()
        assert torch.equal(student.module(torch.from_numpy(x)), torch.from_numpy(expected))


def test_the_page_names_every_key_tensor_and_type(tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118
    words = {*config, *names, *DTYPES, *LAYERS, *(key for module in config["modules"].values() for key in module)}
    assert [word for word in sorted(words) if f"`{word}`" not in PAGE] == []
    assert f"**format {FORMAT}**" in PAGE
