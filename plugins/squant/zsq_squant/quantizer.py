"""The quantizer ``squant``: the student of ``uniform`` with weights rounded by SQuant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from zsq import grids
from zsq.grids import WeightPoint
from zsq.placement import Uniform
from zsq.points import QuantPoint
from zsq.types import Batch, Context, Student, Teacher
from zsq_squant import SquantOptions
from zsq_squant.rounding import squant_codes


class Squant:
    """Uses the min/max grids of ``uniform``; :mod:`zsq_squant.rounding` chooses the code of each weight.

    Every weight is overwritten with the value of its code, and its range is set, so that the codes stay. Points are not frozen: a
    tuner may still move weights on the grid. The scheme decides which activations are quantized; the authors quantize the input of
    every convolution and linear layer except the first, the last one to 8 bits.
    """

    def __init__(self, options: SquantOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def quantize(self, teacher: Teacher, pool: Batch | None) -> Student:
        """A student with its own copy of the teacher's parameters; activation points without a range.

        ``details`` has, for every layer, the share of weights that are not at their nearest code.

        Raises:
            ZsqError: If the network cannot be traced or has nothing to quantize.
        """
        student = Uniform(self.options, self.ctx).quantize(teacher, pool)
        layers = {path.removesuffix(".weight_point"): point for path, point in student.weights.items()}
        moved = {path: self._round(student.module.get_submodule(path), point) for path, point in layers.items()}
        return replace(student, details={**student.details, "moved": moved})

    @torch.no_grad()
    def _round(self, layer: Any, point: QuantPoint) -> float:
        """Round one layer; returns the share of its weights that are not at their nearest code."""
        assert isinstance(point, WeightPoint), "uniform makes weight points"
        weight, grid, nearest = layer.weight, point.grid, point.codes
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        codes = squant_codes(
            weight,
            grid,
            transposed=transposed,
            groups=getattr(layer, "groups", 1),
            kernel=self.options.kernel,
            channel=self.options.channel,
        )
        point.set_range(*(end.clone() for end in point.range))
        weight.copy_(grids.decode(codes, grid))
        return float((codes != nearest).double().mean())
