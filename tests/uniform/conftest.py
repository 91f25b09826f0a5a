"""Teachers and students for the tests of the uniform quantizer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import nn

from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.types import InputSpec, Precision, Student, Teacher

settings.register_profile("zsq", deadline=None)  # the first call of a kernel may take long
settings.load_profile("zsq")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def ctx() -> Any:
    return SimpleNamespace(precision=Precision("fp32"), teacher=None)


@pytest.fixture
def quantize(ctx: Any) -> Callable[..., Student]:
    """``quantize(module, shape, taps=..., **options)``: a student of ``module``."""

    def make(module: nn.Module, shape: tuple[int, ...] = (3, 8, 8), taps: tuple[str, ...] = (), **options: Any) -> Student:
        teacher = Teacher(module.eval(), InputSpec(shape, (0.0,), (1.0,)), task=None, taps=taps)  # type: ignore[arg-type]
        return Uniform(UniformOptions(**options), ctx).quantize(teacher, None)

    return make


@pytest.fixture
def watch() -> Callable[[Student, torch.Tensor], torch.Tensor]:
    """``watch(student, x)``: set every activation range from ``x``, and give the student's output."""

    def run(student: Student, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            with student.observing():
                student.module(x)
            return student.module(x)

    return run
