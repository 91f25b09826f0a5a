"""The arithmetic behind the page, by its definitions."""

from __future__ import annotations

import math
from collections import OrderedDict
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zsq_report import figures
from zsq_report.classes import by_class, classes, wilson
from zsq_report.curves import POINTS, Curves
from zsq_report.histogram import of_range
from zsq_report.measure import Activation, Norm, Seen, Weights, _weights
from zsq_report.notes import notes
from zsq_report.outputs import Outputs, decibels
from zsq_report.page import _name
from zsq_report.statistics import Statistics

from zsq.events import PhaseEnded, PhaseStarted, RunStarted, Stepped


@given(st.floats(0, 100), st.integers(1, 10**6))
def test_wilson_holds_the_share_and_narrows(percent: float, n: int) -> None:
    low, high = wilson(percent, n) or (0, 0)
    assert 0 <= low <= percent + 1e-9 and percent - 1e-9 <= high <= 100
    wide = wilson(percent, max(1, n // 4)) or (0, 0)
    assert high - low <= wide[1] - wide[0] + 1e-9


def test_wilson_against_a_published_value() -> None:
    """81 of 263: 0.2553 to 0.3662 (Newcombe, Statistics in Medicine 1998, table I)."""
    low, high = wilson(100 * 81 / 263, 263) or (0, 0)
    assert (round(low, 2), round(high, 2)) == (25.53, 36.62)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_decibels(signal: float, noise: float) -> None:
    found = decibels(signal, noise)
    assert found == pytest.approx(min(99, 10 * math.log10(signal / noise)))
    assert decibels(0, noise) is None and decibels(signal, 0) == 99


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=200), st.floats(-5, 0), st.floats(0.1, 5))
def test_a_histogram_counts_every_value_once(values: list[float], lo: float, hi: float) -> None:
    x = torch.tensor(values)
    found = of_range(x, torch.tensor(lo), torch.tensor(hi))
    found.add(x)
    assert found.counts.sum() == len(values)
    assert found.start <= 0 and found.end >= 1, "both clip lines are in it"


def test_gap_of_statistics_is_the_divergence_of_two_normal_distributions() -> None:
    norm = nn.BatchNorm2d(2, eps=0.0).eval()
    norm.running_mean = torch.tensor([0.5, -1.0])
    norm.running_var = torch.tensor([2.0, 0.25])
    x = torch.randn((64, 2, 5, 5), generator=torch.Generator().manual_seed(0))
    found = Statistics({"bn": norm})
    with found.watching():
        for part in x.split(16):
            norm(part)
    kept = torch.distributions.Normal(norm.running_mean, norm.running_var.sqrt())
    var, mean = torch.var_mean(x, (0, 2, 3), unbiased=False)
    wanted = torch.distributions.kl_divergence(torch.distributions.Normal(mean, var.sqrt()), kept).mean()
    assert found.gaps["bn"] == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_outputs_are_compared_as_they_are_and_equalized_ones_up_to_a_factor(factor: float) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3)
    point = SimpleNamespace(kind="weight", bits=8, range=(conv.weight.amin() * factor, conv.weight.amax() * factor))
    after = deepcopy(conv)
    with torch.no_grad():
        after.weight.mul_(factor).add_(0.001 * factor * torch.randn(conv.weight.shape))
        after.bias.mul_(factor)
    networks = [nn.Sequential(OrderedDict(conv=module)) for module in (conv, after)]
    teacher: Any = SimpleNamespace(module=networks[0])
    student: Any = SimpleNamespace(module=networks[1], weights={"conv.weight_point": point})
    rows = _weights(teacher, student)
    compare, x = Outputs(teacher, student, [rows[0].path]), torch.randn(8, 3, 6, 6)
    with torch.no_grad():
        with compare.keeping():
            wanted = networks[0](x)
        with compare.comparing():
            found = networks[1](x)
    ratio = compare.ratios(fitted=rows[0].moved)[rows[0].path]
    assert rows[0].moved == (factor != 1)
    assert ratio is not None and ratio > 30
    if factor == 1:
        assert ratio == pytest.approx(10 * float(torch.log10(wanted.square().sum() / (wanted - found).square().sum())), abs=0.01)


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("zoo:resnet20-cifar10", "resnet20-cifar10"),
        ("py:lab.nets:resnet20", "resnet20"),
        ("py:nets/lite0.py:teacher", "lite0"),
        ("hub:org/model@abc", "model@abc"),
        ("hub:model", "model"),
        ("", "teacher"),
    ],
)
def test_a_teacher_is_called_by_its_own_name(ref: str, name: str) -> None:
    assert _name(ref) == name


def test_classes_count_who_was_right() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    details = {
        "student": {"top1": {"answers": np.array([0, 1, 1, 0, 2]), "labels": labels}},
        "teacher": {"top1": {"answers": np.array([0, 0, 1, 1, 0])}},
    }
    found = classes(details, (), 3)
    assert found is not None and (found.lost, found.won) == (2, 1)
    assert found.student.tolist() == [50, 50, 100] and found.teacher is not None and found.teacher.tolist() == [100, 100, 0]
    assert found.confusion.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert [row["drop"] for row in found.rows()] == [50, 50, -100] and found.rows()[0]["mistaken"] == "1 (1)"
    assert classes({"student": {"agreement": {}}}, (), 3) is None


def test_what_evaluators_say_by_class_is_told_where_both_networks_have_it() -> None:
    student = {"pixels": {"by_class": {"IoU": {"sky": 80.0, "road": 70.5, "tree": None, "car": 9.0}}}}
    teacher = {"pixels": {"by_class": {"IoU": {"sky": 81.0, "road": 75.0, "tree": 3.0, "car": None}}}}
    found = by_class({"student": student, "teacher": teacher})
    assert found is not None and found.metric == "IoU"
    assert [(row["name"], row["drop"]) for row in found.rows()] == [("road", 4.5), ("sky", 1.0)]
    chart = figures.per_class(found.names, found.teacher, found.student, found.metric)
    assert chart is not None and "IoU, percent" in chart.svg and "The largest drop is of road: from 75.0 to 70.5" in chart.alt
    assert by_class({"student": student}) is None and by_class({"student": {"pixels": {}}}) is None


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5000))
def test_curves_are_thinned_and_keep_both_ends(total: int) -> None:
    heard = Curves()
    heard.hear(RunStarted(0.0, {}))
    heard.hear(PhaseStarted(0.0, "tune:x"))
    for step in range(1, total + 1):
        heard.hear(Stepped(0.0, "tune:x", step, total, {"loss": torch.tensor(1.0 / step), "name": "text"}, 1, {"loss": math.nan}))
    heard.hear(PhaseEnded(0.0, "tune:x", True))
    (phase,) = heard.phases
    assert set(phase.curves) == {"loss"} and phase.stopped
    points = phase.curves["loss"]
    assert points[0][0] == 1 and points[-1][0] == total
    assert min(total, POINTS) <= len(points) <= 2 * POINTS + 2


def test_a_new_run_forgets_the_one_before() -> None:
    heard = Curves()
    heard.hear(PhaseStarted(0.0, "prepare"))
    heard.hear(RunStarted(0.0, {}))
    assert heard.phases == []


def _report(**changes: Any) -> dict[str, Any]:
    student = {"metrics": {"top1": 90.0}, "act_bits": 4, "layers": [{"path": "conv", "type": "Conv2d", "wrapped": True}]}
    report = {
        "images_evaluated": 5000,
        "student": student,
        "teacher": {"metrics": {"top1": 91.0}, "unit": "images"},
        "stopped": False,
        "seed": 0,
        "images": None,
    }
    return {**report, **changes}


def _levels(report: dict[str, Any], seen: Seen) -> dict[str, str]:
    return {note.text: note.level for note in notes(report, seen, None)}


def test_notes_warn_of_what_makes_figures_doubtful() -> None:
    assert any("95 % interval" in text and level == "good" for text, level in _levels(_report(), Seen()).items())
    assert any("ended early" in text and level == "warning" for text, level in _levels(_report(stopped=True), Seen()).items())
    assert any("No real images" in text and level == "warning" for text, level in _levels(_report(images_evaluated=0), Seen()).items())
    layers = [{"path": "conv", "type": "Conv2d", "wrapped": False}]
    student = {**_report()["student"], "layers": layers, "act_bits": None}
    told = " ".join(_levels(_report(student=student), Seen()))
    assert "1 of 1 layers stayed in float: conv" in told and "Activations stayed in float" in told


def test_notes_see_ranges_that_clip_and_ranges_that_are_too_wide() -> None:
    clips = Activation("a", 4, 0, 1, low=0, high=3, outside=20, values=1000, signal=1, noise=0.1)
    wide = Activation("b", 4, 0, 9, low=0, high=3, values=1000, signal=1, noise=0.1)
    told = " ".join(_levels(_report(), Seen(acts=[clips, wide], norms=[Norm("bn", 1.0, 0.1, 0.9)], synthetic=True)))
    assert (
        "1 of 2 activations clip" in told
        and "a (2.0 %)" in told
        and "1 of 2 activation ranges are over 2 times" in told
        and "0.90 nats" in told
    )


def test_frontier_and_sensitivities_are_drawn_where_there_are_some() -> None:
    details = {
        "sensitivities": {"conv1": {"2": 0.5, "4": 0.01}, "conv2": {"2": 0.1, "4": 0.0}},
        "assignment": {"conv1": 4, "conv2": 2},
        "frontier": [[0.1, 0.6], [0.2, 0.1]],
        "chosen": [0.15, 0.11],
        "cost": "MB",
        "uniform": [{"bits": 2, "size_mb": 0.1, "predicted_kl": 0.6}],
    }
    drawn = [figures.sensitivities(details), figures.frontier(details)]
    assert all(chart is not None and chart.svg.count("<path") > 5 for chart in drawn)
    assert drawn[0] is not None and "conv1" in drawn[0].inline and 'role="img"' in drawn[0].inline and "var(--blue)" in drawn[0].inline
    assert figures.sensitivities({}) is None and figures.frontier({}) is None


def test_a_chart_of_a_wide_layer_has_no_name_too_long() -> None:
    row = Weights("features." * 9 + "conv", "Conv2d", (1,), 4, -1, 1, sqnr=10.0)
    from zsq_report.charts import noise

    chart = noise([row])
    assert chart is not None and "…" in chart.svg and ("features." * 9) not in chart.svg
