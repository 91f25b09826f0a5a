"""Images optimised directly on their pixels against the frozen teacher, batch after batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from zsq.types import Batch, Context, InputSpec, View
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
        self.targets = _dealt(ctx.teacher.task.classes, count, ctx.rng, ctx.device)
        self._batches: list[Tensor] = []

    @property
    def inputs(self) -> Tensor:
        """Images so far, without a graph."""
        return torch.cat(self._batches).detach()

    def make(self) -> Iterator[Mapping[str, Tensor]]:
        """Optimise; gives what ``loss`` shows after every step. May be closed at any of them."""
        o, ctx = self.options, self.ctx
        limits = pixel_limits(ctx.teacher.inputs, ctx.device) if o.clamp else None
        for targets in self.targets.split(self.sizes):
            x = torch.randn((len(targets), *ctx.teacher.inputs.shape), generator=ctx.rng, device=ctx.device)
            x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
            self._batches.append(x)
            batch = Batch(x, targets)
            adam = torch.optim.Adam([x], o.lr, fused=True)
            for step in range(o.steps):
                adam.param_groups[0]["lr"] = 0.5 * o.lr * (1 + math.cos(math.pi * step / o.steps))
                with torch.enable_grad():
                    loss, metrics = self.loss(ctx.probe(batch, {"teacher.output", "teacher.bn"}, step=step), step)
                    loss.backward(inputs=[x])
                adam.step()
                x.grad = None
                if limits is not None:
                    with torch.no_grad():
                        x.clamp_(*limits)
                yield metrics


def target_logits(view: View) -> Tensor:
    """The logit of each image's own class, (N,)."""
    assert view.teacher is not None and view.batch.targets is not None
    return view.task.logits(view.teacher.output).gather(1, view.batch.targets[:, None]).squeeze(1)


def pixel_limits(inputs: InputSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Black and white in the normalised input space, each (1, C, 1, 1)."""
    mean = torch.tensor(inputs.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(inputs.std, device=device).view(1, -1, 1, 1)
    return (0 - mean) / std, (1 - mean) / std


def _dealt(num_classes: int, count: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """``count`` labels, no class twice before every class once."""
    rounds = -(-count // num_classes)
    return torch.cat([torch.randperm(num_classes, generator=rng, device=device) for _ in range(rounds)])[:count]
