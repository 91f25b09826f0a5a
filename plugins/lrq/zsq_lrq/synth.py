"""The synthesizer ``lrq``: stage 1 makes a pool, then a long-range generator learns; ``train_data`` decides where batches come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from zsq_gdfq.generator import Generator
from zsq_gdfq.synth import Gdfq

from zsq.types import Batch, Beat, Cadence, Context, Probe, Update
from zsq_lrq import LrqOptions
from zsq_lrq.attention import LongRangeStack
from zsq_lrq.distill import AmaPool

#: Default number of the generator's batches after its warm-up with ``train_data=stage1``: those that `ema` observes.
WATCHED = 100


class Lrq(Gdfq):
    """LRQ: hard targets (N,) from both sources.

    ``train_data`` decides the batches of the stream:

    - ``stage1``, the authors' code: the generator's batches, each after one of its steps, until ``generator_steps`` are done; they
      are for the calibrator. Then the generator does not change, and every batch is of stage 1.
    - ``generator``: every batch is the generator's, as in GDFQ.
    - ``both``: one batch of the generator, after one of its steps, then one of stage 1.

    ``sample`` returns images of stage 1 if there are any.
    """

    options: LrqOptions

    def __init__(self, options: LrqOptions, ctx: Context) -> None:
        super().__init__(options, ctx)
        self.stage1 = None if options.train_data == "generator" else AmaPool(options.stage1(), ctx)
        self.last = options.generator_steps
        if options.train_data == "stage1" and self.last is None:
            self.last = options.warmup + WATCHED
        if options.train_data == "both":
            self.cadence = Cadence(1, 2, "synth", reuse=True)

    def build(self) -> Generator:
        o = self.options
        where = o.attention if o.attention != "auto" else "block" if self.conditional(o.conditioning) else "upsampling"
        stack = partial(LongRangeStack, where=where, kernel=o.kernel, dilation=o.dilation)
        return Generator(self.shape, o.latent_dim, self.num_classes, o.channels, o.bn_eps, self.conditional(o.conditioning), stack)

    def prepare(self, probe: Probe) -> Iterator[Beat]:
        """Stage 1, then the warm-up of the generator. May be closed after any beat; the steps left out also reduce ``generator_steps``."""
        before, warmup = 0, self.options.warmup
        try:
            if self.stage1 is not None:
                first: Any = self.stage1.prepare(probe)
                with closing(first):
                    for beat in first:
                        before = beat.total
                        yield replace(beat, total=before + warmup)
            second: Any = super().prepare(probe)
            with closing(second):
                for beat in second:
                    yield replace(beat, step=before + beat.step, total=before + beat.total)
        finally:
            if self.last is not None:
                self.last -= warmup - self.steps

    def state_dict(self) -> dict[str, Any]:
        """The generator's state, stage 1, and the generator's last step."""
        return {**super().state_dict(), "stage1": self.stage1.state_dict() if self.stage1 else None, "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.stage1 is not None:
            self.stage1.load_state_dict(state["stage1"])
        self.last = state["last"]

    def sample(self, n: int) -> Batch:
        """``n`` images of stage 1, or of the current generator if there are none."""
        return self.generate(n) if self.stage1 is None else self.stage1.sample(n)

    def update(self, probe: Probe) -> Update:
        """One step of the generator on GDFQ's loss, and its batch with the teacher's trace; or only a batch, see the class."""
        if self.last is None or self.steps < self.last:
            return super().update(probe)
        if self.options.train_data == "stage1":
            return Update(self.sample(self.ctx.batch_size))
        with torch.no_grad():
            return Update(self.generate(self.ctx.batch_size))
