"""Compares the outputs of layers in teacher and student, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from zsq.types import Student, Teacher
from zsq_report.hooks import hooked, module_at


def decibels(signal: float, noise: float) -> float | None:
    """10 log10 of a ratio; 99 at most, None without a signal."""
    if not signal > 0:
        return None
    return min(99.0, 10 * math.log10(signal / noise)) if noise > 0 else 99.0


class Outputs:
    """Compares the outputs of layers in teacher and student, batch by batch.

    Args:
        teacher: Of the run.
        student: Of the run.
        paths: Of the layers.
    """

    def __init__(self, teacher: Teacher, student: Student, paths: Iterable[str]) -> None:
        self.teacher = {path: m for path in paths if (m := module_at(teacher.module, path)) is not None}
        self.student = {path: m for path in self.teacher if (m := module_at(student.module, path)) is not None}
        self.kept: dict[str, list[Tensor]] = {}
        self.sums: dict[str, Tensor] = {}

    @contextmanager
    def keeping(self) -> Iterator[None]:
        def keep(path: str, _inputs: Any, output: Tensor) -> None:
            self.kept.setdefault(path, []).append(output)

        with hooked(self.teacher, keep):
            yield

    @contextmanager
    def comparing(self) -> Iterator[None]:
        def compare(path: str, _inputs: Any, output: Tensor) -> None:
            waiting = self.kept.get(path)
            if waiting and (wanted := waiting.pop(0)).shape == output.shape:
                self.sums[path] = self.sums.get(path, 0) + _moments(wanted, output)

        with hooked(self.student, compare):
            yield
        self.kept.clear()

    def ratios(self, fitted: bool) -> dict[str, float | None]:
        """Signal to noise of each layer's output, in dB; ``fitted`` up to a factor and an offset per channel (equalization)."""
        found: dict[str, float | None] = {}
        for path, (n, x, y, xx, yy, xy) in self.sums.items():
            if fitted:
                signal, other, both = xx - x * x / n, yy - y * y / n, xy - x * y / n
                noise = signal - torch.where(other > 0, both.square() / other, 0)
            else:
                signal, noise = xx, xx - 2 * xy + yy
            found[path] = decibels(float(signal.sum()), float(noise.sum()))
        return found


def _moments(x: Tensor, y: Tensor) -> Tensor:
    """Sums per channel (dimension 1) of 1, x, y, x^2, y^2 and x y: (6, C), float64."""
    over = [d for d in range(x.dim()) if d != 1]
    count = torch.full((x.shape[1],), x.numel() / x.shape[1], dtype=torch.float64)
    x, y = x.detach().float(), y.detach().float()
    return torch.stack([count, *(values.sum(over).double().cpu() for values in (x, y, x * x, y * y, x * y))])
