"""Diversity of synthetic images: the figures against their definitions, and that they stand in the report of every run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsq._run.evaluation import COUNT, images_to_measure
from zsq._run.stream import Stream
from zsq.images import diversity
from zsq.images._diversity import figures
from zsq.testing import tiny_run
from zsq.testing.world import make_context, make_teacher, plain_student
from zsq.training import Probe
from zsq.types import Batch


def draw(seed: int, n: int, d: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn((n, d), generator=rng) + 0.5, 3 * torch.randn((n, k), generator=rng)


def answers(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest probability of every place and its class, from logits (N, K, ...)."""
    sure, classes = logits.softmax(1).max(1)
    return sure.reshape(len(logits), -1), classes.reshape(len(logits), -1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 30), st.integers(1, 8), st.integers(1, 5))
def test_figures_are_what_their_definitions_say(seed: int, n: int, d: int, k: int) -> None:
    features, logits = draw(seed, n, d, k)
    got = figures(features, *answers(logits))
    classes = logits.argmax(1).tolist()
    per_class = []
    for c in set(classes):
        rows = [features[i] for i in range(n) if classes[i] == c]
        pairs = [1 - float(torch.cosine_similarity(a, b, dim=0)) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        per_class += [sum(pairs) / len(pairs)] if pairs else []
    share = [classes.count(c) / n for c in set(classes)]
    values = torch.linalg.eigvalsh(torch.cov(features.double().T).reshape(d, d)).clamp_min(0)
    p = [float(v) for v in values / values.sum() if v > 0]
    assert got["count"] == n and got["classes"] == len(set(classes))
    assert got["class_entropy"] == pytest.approx(-sum(s * math.log(s) for s in share), abs=1e-3)
    assert got["confidence"] == pytest.approx(float(logits.softmax(1).amax(1).mean()), abs=1e-3)
    assert got["effective_rank"] == pytest.approx(math.exp(-sum(v * math.log(v) for v in p)), rel=1e-3)
    if per_class:
        assert got["cosine_distance"] == pytest.approx(sum(per_class) / len(per_class), abs=1e-3)
    else:
        assert got["cosine_distance"] is None


def test_the_same_image_again_and_again_has_no_diversity() -> None:
    got = figures(torch.ones(8, 4), *answers(torch.tensor([[9.0, 0.0]]).expand(8, 2)))
    assert (got["effective_rank"], got["cosine_distance"], got["classes"], got["class_entropy"]) == (0.0, 0.0, 1, 0.0)


def test_directions_of_equal_spread_count_fully() -> None:
    axes = torch.cat([torch.eye(6), -torch.eye(6)])
    assert figures(axes)["effective_rank"] == pytest.approx(6)


class Fixed:
    """A pool whose images are dealt in order, or none: then ever new ones, ``seen`` by the size of each draw."""

    def __init__(self, pool: int) -> None:
        self.rng, self.seen = torch.Generator().manual_seed(0), list[int]()
        if pool:
            self.pool = self.draw(pool)

    def draw(self, n: int) -> torch.Tensor:
        return torch.randn((n, 3, 8, 8), generator=self.rng)

    def sample(self, n: int) -> Batch:
        self.seen.append(n)
        return Batch(self.pool[:n] if hasattr(self, "pool") else self.draw(n))


@pytest.mark.parametrize(("pool", "draws"), [(0, [COUNT // 64] * 64), (100, [100]), (2000, [COUNT])])
def test_images_come_as_the_student_got_them(pool: int, draws: list[int], tmp_path: Any) -> None:
    """A generator is asked for batches of the run's size, since some decide on a batch as a whole; of a pool no image comes twice."""
    teacher, synth = make_teacher(), Fixed(pool)
    ctx = make_context(tmp_path, teacher=teacher)
    stream = Stream(synth, ctx.probe, plain_student(teacher), batch_size=COUNT // 64)
    before = {name: value.clone() for name, value in teacher.module.state_dict().items()}
    got = diversity(images_to_measure(stream, teacher.inputs), teacher, Probe(teacher, ctx.precision))
    assert got is not None and synth.seen == draws and got["count"] == sum(draws)
    assert all(torch.equal(value, before[name]) for name, value in teacher.module.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.module.modules())


def test_features_are_what_enters_the_head(tmp_path: Any) -> None:
    teacher, synth = make_teacher(), Fixed(50)
    ctx = make_context(tmp_path, teacher=teacher)
    seen: list[torch.Tensor] = []
    handle = teacher.module.get_submodule("linear").register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = teacher.module(synth.pool)
    handle.remove()
    got = diversity(
        images_to_measure(Stream(synth, ctx.probe, plain_student(teacher), 16), teacher.inputs), teacher, Probe(teacher, ctx.precision)
    )
    assert got is not None and got.pop("features") == "linear"
    assert got == pytest.approx(figures(seen[0], *answers(logits)), abs=1e-3)


@pytest.mark.parametrize(("synth", "count"), [("noise", COUNT), ("qimera", COUNT), ({"name": "zeroq", "images": 8}, 8)])
def test_every_run_with_images_reports_them(synth: Any, count: int) -> None:
    images = tiny_run({"synth": synth}).report["images"]
    assert images["count"] == count and 1 <= images["classes"] <= 4
    assert 0.25 <= images["confidence"] <= 1 and 0 <= images["effective_rank"] <= 8


def test_images_with_places_are_all_of_one_kind() -> None:
    rng = torch.Generator().manual_seed(0)
    features, logits = torch.randn((6, 5), generator=rng), torch.randn((6, 3, 4, 2), generator=rng)
    got = figures(features, *answers(logits))
    pairs = [1 - float(torch.cosine_similarity(features[i], features[j], dim=0)) for i in range(6) for j in range(6) if i != j]
    share = torch.bincount(logits.argmax(1).flatten()) / 48
    assert got["cosine_distance"] == pytest.approx(sum(pairs) / 30, abs=1e-3)
    assert got["class_entropy"] == pytest.approx(float(-(share * share.log()).sum()), abs=1e-3) and got["classes"] == 3
    assert got["confidence"] == pytest.approx(float(logits.softmax(1).amax(1).mean()), abs=1e-3)
    alone = figures(features)
    assert (alone["classes"], alone["class_entropy"], alone["confidence"]) == (None, None, None)
    assert alone["cosine_distance"] == got["cosine_distance"] and alone["effective_rank"] == got["effective_rank"]


def test_without_images_there_is_nothing_to_say() -> None:
    assert tiny_run({"synth": "none", "quant": "squant4", "calib": ["squant-range"], "tune": "none", "eval": []}).report["images"] is None


@pytest.mark.parametrize(("taps", "told"), [(("bn1", "block.bn3"), "block.bn3"), ((), None)])
def test_without_a_head_features_are_those_of_the_last_tap(taps: tuple[str, ...], told: str | None, tmp_path: Any) -> None:
    teacher = replace(make_teacher(), head="", taps=taps)
    ctx = make_context(tmp_path, teacher=teacher)
    got = diversity(
        images_to_measure(Stream(Fixed(8), ctx.probe, plain_student(teacher), 4), teacher.inputs), teacher, Probe(teacher, ctx.precision)
    )
    assert (got and got["features"]) == told and (got is None or got["count"] == 8)
