"""Images optimised directly on their pixels against the frozen teacher, batch after batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from zsq.images import deal_classes, pixel_limits
from zsq.types import Batch, Context, View
from zsq_aac import ImageOptions

#: Loss of a view at a step, and what to show of it.
Loss = Callable[[View, int], tuple[Tensor, Mapping[str, Tensor]]]


class PixelPool:
    """``options.images`` images, each batch started from N(0, 1) and taken through ``options.steps`` Adam steps on ``loss``.

    Classes are dealt evenly, in random order. ``inputs`` holds all images made so far, the present batch as it stands.
    """

    def __init__(self, options: ImageOptions, ctx: Context, loss: Loss) -> None:
        self.options, self.ctx, self.loss = options, ctx, loss
        count = options.images
        sizes = [options.batch] * (count // options.batch) + ([count % options.batch] if count % options.batch else [])
        if len(sizes) > 1 and sizes[-1] == 1:  # one image has no batch statistics worth matching
            sizes[-2:] = [sizes[-2] + 1]
        self.sizes = sizes
        self.steps = len(sizes) * options.steps
        self.targets = deal_classes(count, ctx.teacher.task.classes, ctx.rng)
        self._batches: list[Tensor] = []
        self._done = 0  # steps of the present batch
        self._adam: torch.optim.Optimizer | None = None
        self._loaded: Mapping[str, Any] | None = None

    @property
    def done(self) -> int:
        """Steps so far."""
        return max(0, len(self._batches) - 1) * self.options.steps + self._done

    def state_dict(self) -> dict[str, Any]:
        """Images so far and what their optimizer keeps, classes, and where the random numbers are."""
        adam = self._adam.state_dict() if self._adam is not None else None
        return {"batches": self._batches, "done": self._done, "adam": adam, "targets": self.targets, "rng": self.ctx.rng.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:meth:`make` then goes on from there."""
        device = self.ctx.device
        self.targets, self._done = state["targets"].to(device), state["done"]
        self._batches = [batch.to(device).requires_grad_() for batch in state["batches"]]
        self.ctx.rng.set_state(state["rng"])
        self._loaded = state["adam"]

    @property
    def inputs(self) -> Tensor:
        """Images so far, without a graph."""
        return torch.cat(self._batches).detach()

    def make(self) -> Iterator[Mapping[str, Tensor]]:
        """Optimise; gives what ``loss`` shows after every step. May be closed at any of them."""
        o, ctx = self.options, self.ctx
        limits = pixel_limits(ctx.teacher.inputs, ctx.device) if o.clamp else None
        for targets in torch.split(self.targets, self.sizes)[max(0, len(self._batches) - 1) :]:
            if self._loaded is None:
                x = torch.randn((len(targets), *ctx.teacher.inputs.shape), generator=ctx.rng, device=ctx.device)
                self._batches.append(x.contiguous(memory_format=torch.channels_last).requires_grad_())
                self._done = 0
            x = self._batches[-1]
            batch = Batch(x, targets)
            adam = self._adam = torch.optim.Adam([x], o.lr, fused=True)
            if self._loaded is not None:
                adam.load_state_dict(dict(self._loaded))
                self._loaded = None
            for step in range(self._done, o.steps):
                adam.param_groups[0]["lr"] = 0.5 * o.lr * (1 + math.cos(math.pi * step / o.steps))
                with torch.enable_grad():
                    loss, metrics = self.loss(ctx.probe(batch, {"teacher.output", "teacher.bn"}, step=step), step)
                    loss.backward(inputs=[x])  # type: ignore[no-untyped-call]
                adam.step()
                x.grad = None
                if limits is not None:
                    with torch.no_grad():
                        x.clamp_(*limits)
                self._done = step + 1
                yield metrics


def target_logits(view: View) -> Tensor:
    """The logit of each image's own class, (N,)."""
    assert view.teacher is not None and view.batch.targets is not None
    return view.task.logits(view.teacher.output).gather(1, view.batch.targets[:, None]).squeeze(1)
