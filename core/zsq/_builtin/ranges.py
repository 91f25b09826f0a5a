"""Calibrators that set activation ranges by watching: extremes, their moving average, percentiles, means of image extremes.

Each runs the student on batches of the stream, watches what arrives at every activation point, and sets all ranges at
the end. Points without a range pass data on unchanged, so a first calibrator sees activations in float behind quantized
weights; a later one sees them on the grids set before it. Any :class:`~zsq.points.QuantPoint` that is a module will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from zsq._builtin.options import EmaOptions, PercentileOptions, RangeOptions
from zsq.training import Extremes, ImageExtremes, MovingAverage, Percentiles, Tracker, act_modules, best_percent, watching_inputs
from zsq.types import Batch, Beat, Context, Student, Trace


class _Watching:
    """A calibrator made of one tracker per activation point."""

    def __init__(self, options: Any, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def tracker(self, bits: int) -> Tracker:
        """A new tracker for an activation point of ``bits`` bits."""
        raise NotImplementedError

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Watch ``options.batches`` batches, then set every range; closed early, set them from what was seen."""
        trackers: dict[str, Tracker] = {}
        points, module = act_modules(student), student.module.eval()

        def watch(path: str, point: Any, x: Tensor) -> None:
            if path not in trackers:
                trackers[path] = self.tracker(point.bits)
            trackers[path].update(x.detach())

        try:
            for step in range(self.options.batches):
                inputs = next(stream)[0].inputs
                if inputs.dim() == 4:
                    inputs = inputs.contiguous(memory_format=torch.channels_last)
                with torch.no_grad(), self.ctx.precision.autocast(), watching_inputs(points, watch):
                    module(inputs)
                yield Beat(step + 1, self.options.batches)
        finally:
            for path, tracker in trackers.items():
                if not student.points[path].frozen:
                    student.points[path].set_range(*tracker.read())


class MinMax(_Watching):
    """Smallest and largest activation seen."""

    options: RangeOptions

    def tracker(self, bits: int) -> Tracker:
        return Extremes()


class Ema(_Watching):
    """Debiased moving average of batch extremes."""

    options: EmaOptions

    def tracker(self, bits: int) -> Tracker:
        return MovingAverage(self.options.decay)


class Percentile(_Watching):
    """Ranges that hold a share of the values."""

    options: PercentileOptions

    def tracker(self, bits: int) -> Tracker:
        return Percentiles(self.options.percent or best_percent(bits))


class MeanImageMax(_Watching):
    """Mean over images of each image's extremes."""

    options: RangeOptions

    def tracker(self, bits: int) -> Tracker:
        return ImageExtremes()
