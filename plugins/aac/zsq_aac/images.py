"""Images for AAC and ABN: batches optimised on their pixels against the frozen teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from zsq.images import Descent, deal_classes
from zsq.types import Batch, Context, View
from zsq_aac import ImageOptions

#: Computes the loss of a view at a step of its batch, and its metrics by name.
Loss = Callable[[View, int], tuple[Tensor, Mapping[str, Tensor]]]


class PixelPool(Descent):
    """``options.images`` images: each batch starts from N(0, 1) and is optimised for ``options.steps`` Adam steps on ``objective``.

    Classes are dealt evenly, in random order. ``total`` is the number of steps of all batches.
    """

    def __init__(self, options: ImageOptions, ctx: Context, objective: Loss) -> None:
        limits = ctx.teacher.inputs.limits(torch.empty(0, device=ctx.device)) if options.clamp else None
        super().__init__(options.steps, options.lr, limits=limits)
        self.ctx, self.objective = ctx, objective
        whole, rest = divmod(options.images, options.batch)
        self.sizes = [options.batch] * whole + ([rest] if rest else [])
        if len(self.sizes) > 1 and rest == 1:  # a single image has no useful batch statistics
            self.sizes[-2:] = [options.batch + 1]
        self.total = len(self.sizes) * options.steps
        self.targets = deal_classes(options.images, ctx.teacher.task.classes, ctx.rng)
        self._batches: list[Tensor] = []

    @property
    def step(self) -> int:
        """Steps made so far, over all batches."""
        return max(0, len(self._batches) - 1) * self.steps + self.done

    @property
    def inputs(self) -> Tensor:
        """All images so far, the current batch as it is now, without a graph."""
        return torch.cat(self._batches).detach()

    def state_dict(self) -> dict[str, Any]:
        """The resumable state: images and classes, the random generator, and the current batch's optimizer."""
        current = super().state_dict() if self._adam is not None else None
        return {"batches": self._batches, "targets": self.targets, "rng": self.ctx.rng.get_state(), "current": current}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:meth:`make_all` continues from this state."""
        device = self.ctx.device
        self.targets = state["targets"].to(device)
        self._batches = [batch.to(device).requires_grad_() for batch in state["batches"]]
        self.ctx.rng.set_state(state["rng"])
        self._loaded = state["current"]

    def make_all(self) -> Iterator[Mapping[str, Tensor]]:
        """Optimise all batches. Yields the metrics after every step, and may be closed at any of them."""
        ctx = self.ctx
        for targets in torch.split(self.targets, self.sizes)[max(0, len(self._batches) - 1) :]:
            if self._loaded is None:
                x = torch.randn((len(targets), *ctx.teacher.inputs.shape), generator=ctx.rng, device=ctx.device)
                self._batches.append(x.contiguous(memory_format=torch.channels_last).requires_grad_())
            for _, metrics in self.make(self._batches[-1], targets):
                yield metrics

    def loss(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        view = self.ctx.probe(Batch(x, targets), {"teacher.output", "teacher.bn"}, step=self.done)
        return self.objective(view, self.done)
