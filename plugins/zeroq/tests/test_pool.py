"""ZeroQ's pool: what is in it, how it is sampled, and what is kept of it for later runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from small_zeroq import context, prepared, synth
from zsq_zeroq import ZeroqOptions
from zsq_zeroq.synth import Zeroq

from zsq.errors import ZsqError
from zsq.testing.world import digest, make_teacher
from zsq.training import Probe
from zsq.types import Batch, InputSpec, Precision, Teacher

# -- the pool -------------------------------------------------------------------------------------------------------------


def test_the_pool_and_its_beats() -> None:
    made = synth(images=10)
    beats = list(made.prepare(made.ctx.probe))
    assert [beat.step for beat in beats] == list(range(1, 10)) and {beat.total for beat in beats} == {9}
    assert {"loss", "bns", "ce"} <= beats[0].metrics.keys()
    assert made.pool.shape == (10, 3, 8, 8) and made.pool.is_contiguous(memory_format=torch.channels_last)
    assert made.pool.dtype == torch.float32 and not made.pool.requires_grad
    assert sorted(Counter(made.targets.tolist()).values()) == [2, 2, 3, 3], "classes are dealt evenly across batches"


def test_a_larger_pool_begins_with_the_smaller_one() -> None:
    small, large = prepared(images=8), prepared(images=16)
    assert torch.equal(small.pool, large.pool[:8]) and torch.equal(small.targets, large.targets[:8])
    assert not torch.equal(large.pool[:4], large.pool[4:8])


def test_without_a_class_term_targets_are_the_teachers_answers() -> None:
    made = prepared(class_weight=0.0)
    assert torch.equal(made.targets, made.ctx.teacher.module(made.pool).argmax(1))


def test_closed_early_only_finished_batches_count_but_one_is_always_there() -> None:
    whole = prepared()
    for beats, count in ((1, 4), (2, 4), (3, 4), (5, 4), (6, 8), (8, 8)):
        made = synth()
        work = made.prepare(made.ctx.probe)
        for _ in range(beats):
            next(work)
        work.close()
        assert len(made.pool) == len(made.targets) == count, f"after {beats} beats"
        if beats >= 3:
            assert torch.equal(made.pool, whole.pool[:count])
        assert len(made.sample(5)) == 5


def test_sizes_by_default_follow_the_size_of_images() -> None:
    teacher = make_teacher()
    large = Teacher(teacher.module, InputSpec((3, 96, 96), (0.0,) * 3, (1.0,) * 3), teacher.task)
    assert (Zeroq(ZeroqOptions(), context()).images, Zeroq(ZeroqOptions(), context()).batch) == (768, 128)
    made = Zeroq(ZeroqOptions(), context(teacher=large))
    assert (made.images, made.batch) == (64, 32)


def rows(batch: Batch) -> list[bytes]:
    return [image.contiguous().numpy().tobytes() for image in batch.inputs]


def test_samples_are_shuffled_epochs_without_repetition() -> None:
    made = prepared()
    whole = {image: int(target) for image, target in zip(rows(Batch(made.pool)), made.targets, strict=True)}
    parts = [made.sample(4) for _ in range(3)]
    epoch = [image for part in parts for image in rows(part)]
    assert sorted(epoch) == sorted(whole) and epoch != list(whole)
    assert all(whole[image] == int(t) for part in parts for image, t in zip(rows(part), part.targets, strict=True))
    made.sample(5)
    assert sorted(rows(made.sample(12))) == sorted(whole), "the whole pool, also in the middle of an epoch"
    assert all(len(set(rows(made.sample(7)))) == 7 for _ in range(10))
    assert all(count >= 2 for count in Counter(rows(made.sample(30))).values())


def test_sampling_before_prepare_is_refused() -> None:
    with pytest.raises(ZsqError, match="no images yet"):
        synth().sample(1)


# -- what is kept ---------------------------------------------------------------------------------------------------------


def everything(made: Zeroq) -> str:
    return digest([made.pool, made.targets, made.sample(5).inputs, made.sample(12).inputs])


class Forwards:
    """Counts forward passes of a teacher's network."""

    def __init__(self, teacher: Teacher) -> None:
        self.count = 0
        teacher.module.register_forward_pre_hook(lambda *_: setattr(self, "count", self.count + 1))


@pytest.mark.parametrize("class_weight", [1.0, 0.0])
def test_a_later_run_makes_nothing_and_gives_the_same_bits(tmp_path: Path, class_weight: float) -> None:
    said: list[str] = []
    fresh = everything(prepared(class_weight=class_weight))
    assert everything(prepared(context(cache=tmp_path), class_weight=class_weight)) == fresh
    teacher = make_teacher()
    forwards = Forwards(teacher)
    again = prepared(context(cache=tmp_path, teacher=teacher, log=said.append), class_weight=class_weight)
    assert everything(again) == fresh and again.pool.is_contiguous(memory_format=torch.channels_last)
    assert said == ["3 of 3 batches of images from the cache"] and forwards.count == 0


def test_an_interrupted_run_goes_on_at_the_batch(tmp_path: Path) -> None:
    first = synth(context(cache=tmp_path))
    work = first.prepare(first.ctx.probe)
    for _ in range(5):
        next(work)
    work.close()
    said: list[str] = []
    teacher = make_teacher()
    forwards = Forwards(teacher)
    assert everything(prepared(context(cache=tmp_path, teacher=teacher, log=said.append))) == everything(prepared())
    assert said == ["1 of 3 batches of images from the cache"] and forwards.count == 2 * 3


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    fresh = everything(prepared(context(cache=tmp_path)))
    files = sorted((tmp_path / "pools").iterdir())
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    said: list[str] = []
    assert everything(prepared(context(cache=tmp_path, log=said.append))) == fresh
    assert said == ["1 of 3 batches of images from the cache"]


def test_more_images_make_use_of_those_there_are(tmp_path: Path) -> None:
    prepared(context(cache=tmp_path), images=8)
    said: list[str] = []
    made = prepared(context(cache=tmp_path, log=said.append), images=16)
    assert said == ["2 of 4 batches of images from the cache"] and everything(made) == everything(prepared(images=16))


CHANGES = [
    {"lr": 0.2},
    {"iterations": 4},
    {"class_weight": 0.0},
    {"spread": "std"},
    {"batch": 3},
    {"seed": 1},
    {"precision": "bf16"},
    {"mean": 0.1},
    {"weight": 1},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_nothing_is_taken_from_another_run(tmp_path: Path, change: dict[str, Any]) -> None:
    prepared(context(cache=tmp_path))
    teacher = make_teacher()
    if "weight" in change:
        teacher.module.get_submodule("conv1").weight.data[0] += 1
        teacher = make_teacher(teacher.module)
    if "mean" in change:
        spec = InputSpec(teacher.inputs.shape, (0.1,) * 3, teacher.inputs.std)
        teacher = Teacher(teacher.module, spec, teacher.task, fingerprint=teacher.fingerprint)
    said: list[str] = []
    ctx = context(seed=change.get("seed", 0), cache=tmp_path, teacher=teacher, log=said.append)
    if "precision" in change:
        precision = Precision("bf16")
        ctx = ctx.with_(precision=precision, probe=Probe(teacher, precision))
    prepared(ctx, **{k: v for k, v in change.items() if k not in ("seed", "precision", "mean", "weight")})
    assert said == []


def test_a_teacher_without_fingerprint_is_not_remembered(tmp_path: Path) -> None:
    teacher = make_teacher()
    prepared(context(cache=tmp_path, teacher=Teacher(teacher.module, teacher.inputs, teacher.task)))
    assert not (tmp_path / "pools").exists()
