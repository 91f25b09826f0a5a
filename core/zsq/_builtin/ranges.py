"""Calibrators that observe activations and set ranges: minimum and maximum, moving average, percentiles, means over images.

Each runs the student on batches of the stream, observes the inputs of every activation point, and sets all ranges at the end. A point
without a range returns its input unchanged, so the first calibrator sees float activations after quantized weights; a later one sees
fake-quantized activations. Any :class:`~zsq.points.QuantPoint` that is a module works.
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
    """A calibrator with one observer per activation point."""

    def __init__(self, options: Any, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def tracker(self, bits: int) -> Tracker:
        """The observer for an activation point with ``bits``."""
        raise NotImplementedError

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Observe ``options.batches`` batches, then set every range; if closed early, from the batches so far."""
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
    """Smallest and largest activation."""

    options: RangeOptions

    def tracker(self, bits: int) -> Tracker:
        return Extremes()


class Ema(_Watching):
    """Debiased moving average of batch extremes."""

    options: EmaOptions

    def tracker(self, bits: int) -> Tracker:
        return MovingAverage(self.options.decay)


class Percentile(_Watching):
    """Ranges that contain a share of the values."""

    options: PercentileOptions

    def tracker(self, bits: int) -> Tracker:
        return Percentiles(self.options.percent or best_percent(bits))


class MeanImageMax(_Watching):
    """Mean over images of each image's extremes."""

    options: RangeOptions

    def tracker(self, bits: int) -> Tracker:
        return ImageExtremes()
