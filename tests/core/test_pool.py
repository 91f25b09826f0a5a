"""Pools of images: what a synthesizer gets by naming itself and giving what makes its batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zsq.errors import ZsqError
from zsq.images import PoolSynth, deal_classes
from zsq.options import PoolOptions
from zsq.protocols import Pooled, Resumable, Staged, Synthesizer
from zsq.testing.world import make_context, make_teacher
from zsq.types import Context

SIZES = PoolOptions(images=10, batch=4, iterations=3)


class Brighter:
    """Adds one to every pixel, ``steps`` times."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done = steps, 0
        self._loaded = 0

    def make(self, x: Tensor, targets: Tensor) -> Iterator[tuple[bool, Mapping[str, Tensor]]]:
        first, self._loaded = self._loaded, 0
        for step in range(first, self.steps):
            with torch.no_grad():
                x += 1
            self.done = step + 1
            yield self.done == self.steps, {"mean": x.detach().mean()}

    def state_dict(self) -> Mapping[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loaded = state["done"]


class Bright(PoolSynth[Brighter]):
    name, distribution = "bright", "zsq"

    def maker(self) -> Brighter:
        return Brighter(self.options.iterations)

    def noise(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        return super().noise(shape, rng) * 0


def context(**changes: Any) -> Context:
    return make_context(Path(), teacher=make_teacher()).with_(**changes)


def test_a_pool_is_staged_resumable_and_made_ahead() -> None:
    made = Bright(SIZES, context())
    assert all(isinstance(made, part) for part in (Synthesizer, Staged, Resumable, Pooled))
    with pytest.raises(ZsqError, match="no images yet"):
        made.sample(1)
    assert [beat.step for beat in made.prepare(made.ctx.probe)] == list(range(1, 10))
    assert len(made.pool) == 10 and bool((made.pool == 3).all())
    assert made.sample(4).inputs.is_contiguous(memory_format=torch.channels_last)


def test_a_later_run_takes_its_batches_from_the_cache(tmp_path: Path) -> None:
    said: list[str] = []
    ctx = context(cache=tmp_path, log=said.append)
    first = Bright(SIZES, ctx)
    list(first.prepare(ctx.probe))
    again = Bright(SIZES, context(cache=tmp_path, log=said.append))
    list(again.prepare(again.ctx.probe))
    assert said == ["3 of 3 batches of images from the cache"]
    assert torch.equal(first.pool, again.pool) and torch.equal(first.targets, again.targets)


def test_work_is_taken_up_in_the_middle_of_a_batch() -> None:
    first = Bright(SIZES, context())
    work = first.prepare(first.ctx.probe)
    for _ in range(5):
        next(work)
    state = first.state_dict()
    second = Bright(SIZES, context())
    second.load_state_dict(state)
    assert next(iter(second.prepare(second.ctx.probe))).step == 6
    work.close()


@pytest.mark.parametrize(("count", "classes"), [(10, 4), (3, 4), (8, 4), (1, 1)])
def test_no_class_is_dealt_twice_before_every_one_was(count: int, classes: int) -> None:
    dealt = deal_classes(count, classes, torch.Generator().manual_seed(0))
    assert len(dealt) == count
    for start in range(0, count, classes):
        part = Counter(dealt[start : start + classes].tolist())
        assert max(part.values()) == 1 and set(part) <= set(range(classes))
