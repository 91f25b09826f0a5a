"""Training: the loop, the objective, learned ranges, observers, BatchNorm statistics, hooks, precision, the probe."""

from __future__ import annotations

from zsq.training._comparing import pairs, sum_of
from zsq.training._descent import Moved, Progress, cosine, descend, learn_ranges
from zsq.training._objective import Objective, Term
from zsq.training._precision import choose_precision
from zsq.training._probe import Probe
from zsq.training._statistics import BnsDistance, batch_norms, bns_distance, channel_stats
from zsq.training._trackers import Extremes, ImageExtremes, MovingAverage, Percentiles, Tracker, best_percent
from zsq.training._watching import act_modules, full_precision, watching_inputs, watching_outputs

__all__ = [
    "BnsDistance",
    "Extremes",
    "ImageExtremes",
    "Moved",
    "MovingAverage",
    "Objective",
    "Percentiles",
    "Probe",
    "Progress",
    "Term",
    "Tracker",
    "act_modules",
    "batch_norms",
    "best_percent",
    "bns_distance",
    "channel_stats",
    "choose_precision",
    "cosine",
    "descend",
    "full_precision",
    "learn_ranges",
    "pairs",
    "sum_of",
    "watching_inputs",
    "watching_outputs",
]
