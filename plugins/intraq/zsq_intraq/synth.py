"""The synthesizer ``intraq``: a pool as zeroq's, but each batch depends on the finished ones, and samples are crops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from zsq.images import Made, PoolSynth
from zsq.protocols import Classed
from zsq.types import Batch, Context
from zsq_intraq import IntraqOptions
from zsq_intraq.crops import crop, draw
from zsq_intraq.distill import IntraqDistiller


class Intraq(PoolSynth[IntraqDistiller]):
    """Every batch after the first keeps its distance from the class centres of finished ones.

    A subclass may set another ``distiller_class``; it must then set ``name`` and ``distribution``.
    """

    name, distribution = "intraq", "zsq-intraq"
    free = ("images", "batch", "augment", "least")
    distiller_class: type[IntraqDistiller] = IntraqDistiller
    options: IntraqOptions

    def __init__(self, options: IntraqOptions, ctx: Context) -> None:
        super().__init__(options, ctx)
        seed = int(torch.randint(2**62, (), generator=self.generator("augment")))
        self._boxes = torch.Generator(ctx.device).manual_seed(seed)

    def maker(self) -> IntraqDistiller:
        return self.distiller_class(self.options, self.ctx)

    def steps(
        self, maker: IntraqDistiller, span: tuple[int, int], begun: Made, finished: Sequence[Made]
    ) -> Iterator[tuple[bool, Mapping[str, Tensor]]]:
        """With the centres of the finished batches, ``group`` of them at a time."""
        if self.options.mdc_weight:
            maker.remember(finished[: len(finished) // self.options.group * self.options.group])
        maker.begin(begun[1], self.generator(f"crops {span[0]}"))
        return maker.make(*begun)

    def sample(self, n: int) -> Batch:
        """``n`` images with targets, as random crops with the option ``augment``; the images themselves if ``n`` is at least the size
        of the pool.

        Raises:
            ZsqError: If the pool is empty.
        """
        batch = super().sample(n)
        if not self.options.augment or n >= len(self.pool):
            return batch
        height, width = batch.inputs.shape[-2:]
        return Batch(crop(batch.inputs, draw(n, (height, width), self.options.least, self._boxes)), batch.targets)

    def state_dict(self) -> dict[str, Any]:
        """The resumable state, with the generator of the crops."""
        return {**super().state_dict(), "boxes": self._boxes.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._boxes.set_state(state["boxes"])

    def labels(self, span: tuple[int, int]) -> Tensor:
        if self.options.labels == "even":
            return super().labels(span)
        task = self.ctx.teacher.task
        assert isinstance(task, Classed)
        return task.targets(span[1] - span[0], self.generator(f"labels {span[0]}"))

    def key(self, span: tuple[int, int]) -> dict[str, Any]:
        """Includes what earlier batches depend on: the batch size, and the layer that features are taken from."""
        return {**super().key(span), "batch": self.batch, "head": self.ctx.teacher.head, "pool": version("zsq-zeroq")}
