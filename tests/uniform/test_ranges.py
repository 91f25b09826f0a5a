"""Calibrators: the statistic each promises, and that they work on any points, leave the student tidy and stop when told."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from torch import nn

from zsq._builtin import options as o
from zsq._builtin import ranges
from zsq.training import _trackers
from zsq.types import Batch, Student

ALL = [
    (ranges.MinMax, o.RangeOptions(batches=3)),
    (ranges.Ema, o.EmaOptions(batches=3)),
    (ranges.Percentile, o.PercentileOptions(batches=3)),
    (ranges.MeanImageMax, o.RangeOptions(batches=3)),
]


class ForeignPoint(nn.Module):
    """Somebody else's activation point."""

    kind, bits, observing, frozen = "act", 4, False, False

    def __init__(self):
        super().__init__()
        self.range = None

    scale = zero_point = property(lambda self: torch.ones(()))

    def set_range(self, lo, hi):
        self.range = (float(lo), float(hi))

    def forward(self, x):
        return x


def bare(sequence, calibrator, options, ctx):
    """The range that a calibrator gives one foreign point on a sequence of batches."""
    point = ForeignPoint()
    student = Student(nn.Sequential(point), {"0": point}, {})
    stream = ((Batch(torch.as_tensor(x, dtype=torch.float32)), None) for x in sequence)
    beats = list(calibrator(options, ctx).fit(student, stream))
    assert [b.step for b in beats] == list(range(1, options.batches + 1)) and {b.total for b in beats} == {options.batches}
    return point.range


def test_minmax(ctx):
    assert bare([[[0, 1]], [[-3, 2]], [[0, 0]]], ranges.MinMax, o.RangeOptions(batches=3), ctx) == (-3, 2)


def test_mean_image_max_counts_images_not_batches(ctx):
    batches = [[[0.0, 4.0]], [[-3.0, 1.0], [0.0, 1.0]]]
    assert bare(batches, ranges.MeanImageMax, o.RangeOptions(batches=2), ctx) == (-1, 2)


def test_percentile_cuts_one_end_of_rectified_values_and_both_of_others(ctx):
    values = torch.arange(1001.0)
    assert bare([values[None]], ranges.Percentile, o.PercentileOptions(batches=1, percent=99), ctx) == (0, 990)
    assert bare([values[None] - 500], ranges.Percentile, o.PercentileOptions(batches=1, percent=99), ctx) == (-495, 495)
    two = [values[None], values[None] * 3]
    assert bare(two, ranges.Percentile, o.PercentileOptions(batches=2, percent=99), ctx) == (0, 1980)


def test_percentile_of_many_values_looks_at_all_columns(ctx):
    x = torch.zeros(1, 2**14, 64)
    x[..., 5] = 1.0
    sample = _trackers.spread(x.flatten(), 2**17)
    assert len(sample) <= 2**17 and abs(float(sample.mean()) - 1 / 64) < 1e-3


def compound(maxima, decay=0.9):
    """The tracker of GDFQ's code: the corrected value is stored and fed back."""
    hi = 0.0
    for t, x in enumerate(maxima, start=1):
        hi = (decay * hi + (1 - decay) * x) / (1 - decay**t)
        yield hi


def test_ema_of_a_constant_reads_that_constant_where_the_published_tracker_compounds(ctx):
    for batches in (1, 2, 3, 22, 50):
        lo, hi = bare([[[0.0, 1.0]]] * batches, ranges.Ema, o.EmaOptions(batches=batches), ctx)
        assert lo == 0 and hi == pytest.approx(1, abs=1e-6)
    published = list(compound([1.0] * 160))
    assert published[:4] == pytest.approx([1, 5.263, 17.848, 47.000], rel=1e-3)
    assert max(published) == published[20] == pytest.approx(3945, abs=1)
    assert next(t for t in count(23) if published[t - 1] < 1.05) == 138


def test_ema_weighs_late_batches_more(ctx):
    _, hi = bare([[[0.0, 1.0]], [[0.0, 3.0]]], ranges.Ema, o.EmaOptions(batches=2, decay=0.5), ctx)
    assert hi == pytest.approx((0.25 * 1 + 0.5 * 3) / 0.75)


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())


def endless():
    while True:
        yield Batch(torch.randn(2, 3, 8, 8)), None


@pytest.mark.parametrize(("calibrator", "options"), ALL)
def test_all_ranges_are_set_and_the_student_left_tidy(calibrator, options, quantize, ctx):
    student = quantize(small(), act_bits=4)
    list(calibrator(options, ctx).fit(student, endless()))
    assert all(float(point.range[1]) > 0 and not point.observing for point in student.acts.values())
    assert not student.module.training and not any(point._forward_pre_hooks for point in student.acts.values())
    assert len(student.module(torch.randn(2, 3, 8, 8)).unique()) <= 16


@pytest.mark.parametrize(("calibrator", "options"), ALL)
def test_closing_early_sets_ranges_from_what_was_seen(calibrator, options, quantize, ctx):
    student = quantize(small())
    work = calibrator(options, ctx).fit(student, endless())
    next(work)
    work.close()
    assert all(float(point.range[1]) > 0 for point in student.acts.values())
    untouched = quantize(small())
    calibrator(options, ctx).fit(untouched, endless()).close()
    assert all(point.range[1].isnan() for point in untouched.acts.values())


def test_frozen_ranges_stay(quantize, ctx):
    student = quantize(small())
    for point in student.acts.values():
        point.set_range(0.0, 0.5)
        point.freeze()
    list(ranges.MinMax(o.RangeOptions(batches=1), ctx).fit(student, endless()))
    assert {float(point.range[1]) for point in student.acts.values()} == {0.5}
