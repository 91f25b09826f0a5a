"""What the file computes and how: against the simulated student in ONNX Runtime, on small networks of every kind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zsq_onnx.bias import Weight, with_integer_bias
from zsq_onnx.emitter import Codes
from zsq_onnx.exporter import Onnx
from zsq_onnx.model import build
from zsq_onnx.runtime import OnnxRuntime
from zsq_onnx.verify import verify as compare

from zsq.errors import FileError, ZsqError
from zsq.grids import ActPoint
from zsq.options import Options
from zsq.testing import conformance, world
from zsq.types import Student, Teacher

sys.path.insert(0, str(Path(__file__).parent))
from nets import Layers, Shuffle, images, student, teacher

test_onnx = conformance("onnx")


def tiny() -> Teacher:
    from zsq.testing import teachers

    return teacher(teachers.tiny())


def shuffle() -> Teacher:
    return teacher(Shuffle())


def grouped() -> Teacher:
    """Groups, stride, dilation, `same`, padding of its own, ReLU6, a bias beside BatchNorm."""
    layers = (
        nn.Conv2d(3, 8, 3, padding="same", dilation=2, bias=True),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.ZeroPad2d((0, 1, 2, 1)),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4, bias=False),
        nn.BatchNorm2d(8),
        nn.Hardtanh(-1.0, 2.0),
    )
    return teacher(Layers(8, *layers))


def verify(module: nn.Module, inputs: torch.Tensor, folder: Path) -> dict[str, Any]:
    return compare(module, inputs, folder, OnnxRuntime(), "onnx", world.make_component("task", "classify"))


def exported(made: Student, of: Teacher, folder: Path) -> Path:
    manifest = {"teacher": {"ref": of.ref, "fingerprint": of.fingerprint}, "recipe": {"seed": 0}}
    Onnx(Options(), world.make_context(folder, teacher=of)).export(made, manifest, folder)
    return folder


@pytest.mark.parametrize("scheme", ["deploy", "paper"])
@pytest.mark.parametrize("bits", [8, 5, 4, 3, 2])
@pytest.mark.parametrize("make", [tiny, shuffle, grouped])
def test_it_agrees_with_the_simulated_student(make: Callable[[], Teacher], bits: int, scheme: str, tmp_path: Path) -> None:
    of = make()
    made = student(of, bits, scheme)
    result = verify(made.module, images(128), exported(made, of, tmp_path))
    assert result["argmax_agreement"] == 100
    assert result["max_abs_diff"] < 0.25 * result["spread"]
    assert result["first"] is None or (result["first"]["share"] < 2 and result["first"]["steps"] <= 2)
    if bits <= 4 and make is not grouped:  # there a mean of saturated values lies exactly between two codes
        assert result["first"] is None, "every code is the simulated one"
        assert result["max_abs_diff"] < 1e-3 * result["spread"]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("make", [tiny, shuffle, grouped])
def test_a_deployed_student_is_integer_from_end_to_end(make: Callable[[], Teacher], bits: int) -> None:
    of = make()
    model, _ = build(student(of, bits).module, of.inputs)
    found = OnnxRuntime().optimized(model.SerializeToString())
    assert not found.floating and not found.islands and len(found.integer) >= 3
    assert found.operations.get("QLinearConv", 0) >= 2 and found.operations.get("DequantizeLinear", 0) == 0


def test_with_a_float_input_all_but_the_first_layer_is_integer(tmp_path: Path) -> None:
    of = tiny()
    made = student(of, float_input=True)
    result = verify(made.module, images(128), exported(made, of, tmp_path))
    assert len(result["floating"]) == 1 and len(result["integer"]) == len(made.weights) - 1 > 1
    assert result["argmax_agreement"] == 100 and result["first"] is None


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("curve", [torch.relu, nn.functional.relu6])
def test_a_value_that_is_read_with_and_without_its_relu_stays_an_integer(curve: Any, bits: int, tmp_path: Path) -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.plain, self.curved = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.head = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.head((self.plain(x) + self.curved(curve(x))).mean((2, 3)))  # type: ignore[no-any-return]

    of = teacher(Forked())
    made = student(of, bits)
    result = verify(made.module, images(16), exported(made, of, tmp_path))
    assert len(result["integer"]) == 4 and not result["floating"] and result["first"] is None
    points = [path for path in made.acts if path.startswith("relu")]
    assert len(points) == (0 if curve is torch.relu else 1), "zero is on every grid, six is not"


def test_a_paper_student_says_that_it_is_not_integer(tmp_path: Path) -> None:
    of, said = tiny(), list[str]()
    made = student(of, 4, "paper")
    ctx = world.make_context(tmp_path, teacher=of).with_(log=said.append)
    Onnx(Options(), ctx).export(made, {}, tmp_path)
    assert any("not integer from end to end" in line for line in said)
    assert any("int8 speed" in line for line in said)


def test_the_batch_is_free_and_the_file_says_where_it_comes_from(tmp_path: Path) -> None:
    of = tiny()
    exported(student(of), of, tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    session = OnnxRuntime().session((tmp_path / "model.onnx").read_bytes())
    assert [session(images(n).numpy())[0].shape for n in (1, 5)] == [(1, 4), (5, 4)]
    told = {p.key: p.value for p in model.metadata_props}
    assert told["zsq_teacher"] == of.ref and told["zsq_teacher_sha256"] == of.fingerprint and told["zsq_scheme"] == "deploy"
    assert len(told["zsq_recipe_sha256"]) == 64 and told["zsq_weight_bits"] == "8"
    assert [o.version for o in model.opset_import if not o.domain] == [17]


def test_weights_are_one_byte_each() -> None:
    of = teacher(Layers(64, nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, bias=False), nn.ReLU()))
    model, _ = build(student(of).module, of.inputs)
    floats = sum(p.numel() for p in of.module.parameters()) * 4
    assert len(model.SerializeToString()) < 0.32 * floats


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000), st.floats(1e-3, 30.0))
def test_an_integer_bias_gives_the_codes_of_the_float_bias(bits: int, seed: int, spread: float) -> None:
    """Every sum that can occur goes to the same code below 5 bits; never more than one code away at any width."""
    rng = np.random.default_rng(seed)
    weight = Weight(rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (4, 9)), rng.uniform(1e-3, 1.0, 4), np.zeros(4, np.int64))
    codes = Codes("x", np.float32(rng.uniform(1e-3, 1.0)), 0, np.uint8, 2**bits - 1)
    bias = rng.normal(size=4) * spread
    sums = rng.integers(0, 2**bits, (2000, 9)) @ weight.codes.T
    step = np.float64(codes.scale) * weight.scale
    exact = sums * step + bias
    after = ActPoint(bits)
    after.set_range(float(exact.min()), float(exact.max()))
    after.freeze()
    found, numbers, given_step = with_integer_bias(weight, bias, codes, after)
    factor = np.rint(found.codes[:, :1] / np.where(weight.codes[:, :1] == 0, 1, weight.codes[:, :1]))[:, 0].astype(np.int64)
    factor = np.where(factor == 0, np.rint(weight.scale / found.scale).astype(np.int64), factor)
    assert np.array_equal(found.codes, weight.codes * factor[:, None]) and np.abs(found.codes).max() <= 128
    assert np.allclose(given_step, step / factor, rtol=0.011)

    def encoded(values: np.ndarray) -> np.ndarray:
        scale, zero = after.scale.item(), after.zero_point.item()
        return np.clip(np.rint(values / scale) + zero, 0, 2**bits - 1)

    gap = np.abs(encoded(exact) - encoded((sums * factor + numbers) * given_step.astype(float)))
    assert gap.max() <= 1
    assert gap.mean() <= (1e-3 if bits <= 4 else 0.02)


def test_a_channel_that_batchnorm_closed_keeps_its_bias() -> None:
    """Its scale would make the integer bias overflow 32 bits."""
    weight = Weight(np.full((1, 9), 100), np.array([1e-14]), np.zeros(1, np.int64))
    codes = Codes("x", np.float32(0.1), 0, np.uint8, 255)
    _, numbers, step = with_integer_bias(weight, np.array([3.0]), codes, None)
    assert numbers[0] * float(step[0]) == pytest.approx(3.0, rel=1e-5)


def test_operations_in_float_between_integer_layers_are_named() -> None:
    class Curved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            return self.head((self.second(x) + torch.tanh(x)).mean((2, 3)))  # type: ignore[no-any-return]

    of = teacher(Curved())
    found = OnnxRuntime().optimized(build(student(of).module, of.inputs)[0].SerializeToString())
    assert not found.floating and any("tanh" in name for name in found.islands)


def test_what_cannot_be_translated_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.cumsum(self.conv(x), 2).mean((2, 3)))  # type: ignore[no-any-return]

    of = teacher(Odd())
    with pytest.raises(ZsqError, match="'cumsum' has no translation"):
        build(student(of).module, of.inputs)


def test_wide_weights_are_refused_with_a_hint() -> None:
    of = tiny()
    with pytest.raises(ZsqError, match="16 bits have no integer kernel"):
        build(student(of, weight_bits=16).module, of.inputs)


def test_a_file_that_is_missing_or_damaged(tmp_path: Path) -> None:
    of = tiny()
    made = student(of)
    with pytest.raises(FileError, match=r"cannot read model\.onnx"):
        verify(made.module, images(2), tmp_path)
    path = exported(made, of, tmp_path) / "model.onnx"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(FileError, match=r"cannot run model\.onnx"):
        verify(made.module, images(2), tmp_path)


def test_a_file_of_another_student_does_not_verify(tmp_path: Path) -> None:
    """The proof can fail: the first point whose codes differ is named."""
    of = tiny()
    made = student(of, 4)
    exported(made, of, tmp_path)
    other = student(tiny(), 4)
    with torch.no_grad():
        other.module.get_submodule("block.bn2").bias += 0.7  # type: ignore[operator]
    result = verify(other.module, images(128), tmp_path)
    assert result["first"]["path"] == "block.relu_point" and result["max_abs_diff"] > 0


class Piece(nn.Module):
    """A convolution, something else, a convolution whose answer nothing follows."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Conv2d(3, 8, 3, padding=1), between, nn.Conv2d(8, 4, 3, stride=2, padding=1, groups=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.between(self.first(x)))).flatten(2).mean(2)  # type: ignore[no-any-return]


class Attended(nn.Module):
    """A product of two activations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.flatten(2)
        return (torch.softmax(y @ y.transpose(1, 2) * 0.1, -1) @ y).view(x.shape)


class Channels(nn.Module):
    """LayerNorm over channels, as ConvNeXt has it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


BETWEEN: dict[str, Callable[[], nn.Module]] = {
    "group norm": lambda: nn.GroupNorm(4, 8),
    "group norm without weights": lambda: nn.GroupNorm(2, 8, affine=False),
    "instance norm": lambda: nn.InstanceNorm2d(8, affine=True),
    "layer norm": Channels,
    "prelu": lambda: nn.PReLU(8, init=0.3),
    "one slope": nn.PReLU,
    "mish": nn.Mish,
    "selu": nn.SELU,
    "celu": lambda: nn.CELU(0.7),
    "relu, then norm": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8)),
    "attention": Attended,
    "transposed": lambda: nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2),
}


@pytest.mark.parametrize("scheme", ["deploy", "paper"])
@pytest.mark.parametrize("name", BETWEEN)
def test_what_stays_in_float_between_layers_computes_the_same_and_the_layers_in_integers(name: str, scheme: str, tmp_path: Path) -> None:
    of = teacher(Piece(BETWEEN[name]()))
    made = student(of, 4, scheme)
    result = verify(made.module, images(128), exported(made, of, tmp_path))
    assert result["argmax_agreement"] == 100 and result["max_abs_diff"] < 1e-3 * result["spread"]
    if scheme == "deploy":
        assert not result["floating"] and len(result["integer"]) == 2
        assert result["islands"] or name == "one slope"


@pytest.mark.parametrize("bits", [8, 4])
def test_a_convolution_that_gives_the_output_sums_integers(bits: int, tmp_path: Path) -> None:
    """With BatchNorm, padding that was left to it, groups, dilation, and no bias."""
    layers = (nn.Conv2d(3, 4, 1), nn.ZeroPad2d((0, 1, 2, 1)), nn.Conv2d(4, 4, 3, groups=2, dilation=2, bias=False), nn.BatchNorm2d(4))
    of = teacher(nn.Sequential(*layers))
    made = student(of, bits)
    model, _ = build(made.module, of.inputs)
    found = OnnxRuntime().optimized(model.SerializeToString())
    assert len(found.integer) == 2 and not found.floating and not found.islands and found.operations["ConvInteger"] == 1
    plain, _ = build(made.module, of.inputs, sums=False)
    assert "ConvInteger" not in {node.op_type for node in plain.graph.node}
    if bits == 4:
        exported(made, of, tmp_path)
        result = verify_places(made.module, tmp_path)
        assert result["max_abs_diff"] < 1e-5 * result["spread"] and result["first"] is None


def verify_places(module: nn.Module, folder: Path) -> dict[str, Any]:
    return compare(module, images(32), folder, OnnxRuntime(), "onnx", world.make_component("task", "classify"))


def test_layers_that_share_a_weight_are_translated(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Linear(3, 4)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.two(torch.relu(self.one(x)))).mean((2, 3)))  # type: ignore[no-any-return]

    of = teacher(Tied())
    made = student(of, 4)
    result = verify(made.module, images(128), exported(made, of, tmp_path))
    assert len(result["integer"]) == 3 and not result["floating"] and result["first"] is None
