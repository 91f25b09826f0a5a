"""One batch of images, optimised on its pixels or its spectrum against the frozen teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zsq.images import pixel_limits
from zsq.protocols import Classed
from zsq.types import Context
from zsq_zeroq import DescentOptions, ZeroqOptions
from zsq_zeroq.distance import Distance, input_distance
from zsq_zeroq.fused import Watched
from zsq_zeroq.spectrum import Spectrum

#: The authors' ReduceLROnPlateau: factor, patience, smallest rate, and the relative improvement that counts.
FACTOR, PATIENCE, MIN_LR, THRESHOLD = 0.1, 100, 1e-4, 1e-4


class Descent:
    """Takes batches from noise to images, any number of them one after another. A subclass says what is minimised (``loss``).

    ``done`` is the number of steps that the present batch has behind it.
    """

    done = 0
    _loaded: Mapping[str, Any] | None = None
    _parts: _Parts | None = None

    #: Steps without improvement that the schedule ``plateau`` bears.
    patience: int | None = None
    #: Smallest and largest value of pixels, each (1, C, 1, 1), or None.
    limits: tuple[Tensor, Tensor] | None = None

    def __init__(self, options: DescentOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def make(self, x: Tensor, targets: Tensor) -> Iterator[tuple[bool, Mapping[str, Tensor]]]:
        """Optimise ``x`` (N, C, H, W, a leaf that takes a gradient, channels_last) in place.

        Gives at every step whether it was the last, and the terms of the loss. Nothing is read back from the device, unless
        :meth:`enough` does.
        """
        o = self.options
        spectrum = Spectrum(x.detach()) if o.basis == "spectrum" else None
        moved = x if spectrum is None else spectrum.waves
        plateau = Plateau(o.lr, x.device, self.patience) if o.schedule == "plateau" else None
        adam = torch.optim.Adam([moved], plateau.lr if plateau else o.lr, fused=True)
        self.done, self._parts = 0, _Parts(adam, plateau, spectrum)
        if self._loaded is not None:
            self.take_up(self._loaded)
            self._loaded = None
        for step in range(self.done, o.iterations):
            if o.schedule == "cosine":
                adam.param_groups[0]["lr"] = 0.5 * o.lr * (1 + math.cos(math.pi * step / o.iterations))
            with torch.enable_grad():
                loss, metrics = self.loss(x if spectrum is None else spectrum.images(self.limits), targets)
                if self.enough(metrics):
                    yield True, metrics
                    return
                loss.backward(inputs=[moved])  # type: ignore[no-untyped-call]
            adam.step()
            moved.grad = None
            if plateau:
                plateau.step(loss.detach())
            with torch.no_grad():
                if spectrum is not None:
                    x.copy_(spectrum.images(self.limits))
                elif self.limits is not None:
                    x.clamp_(*self.limits)
            self.done = step + 1
            yield step + 1 == o.iterations, metrics

    def state_dict(self) -> dict[str, Any]:
        """Of the batch that is being made, but for its images: how far it is, and what goes on changing."""
        assert self._parts is not None
        adam, plateau, spectrum = self._parts
        return {
            "done": self.done,
            "adam": adam.state_dict(),
            "plateau": plateau and plateau.state_dict(),
            "waves": spectrum and spectrum.waves,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next :meth:`make` goes on from there; its images are those of that time."""
        self._loaded = state

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Put what :meth:`make` has just set up into the state that was loaded."""
        assert self._parts is not None
        adam, plateau, spectrum = self._parts
        self.done = state["done"]
        adam.load_state_dict(state["adam"])
        if plateau is not None:
            plateau.load_state_dict(state["plateau"])
            adam.param_groups[0]["lr"] = plateau.lr
        if spectrum is not None:
            with torch.no_grad():
                spectrum.waves.copy_(state["waves"])

    def loss(self, x: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what to show of it, by name and detached; among it ``loss``."""
        raise NotImplementedError

    def enough(self, metrics: Mapping[str, Tensor]) -> bool:
        """Whether a batch is finished before its last step."""
        return False

    @torch.no_grad()
    def answers(self, x: Tensor) -> Tensor:
        """The teacher's own class of each image, (N,)."""
        with self.ctx.precision.autocast():
            return self.ctx.teacher.task.logits(self.ctx.teacher.module(x)).argmax(1)


class Distiller(Descent):
    """ZeroQ's objective.

    Statistics are taken at the INPUT of each BatchNorm layer. The authors pair the i-th convolution's output with the i-th
    BatchNorm layer, which is the same where every convolution is followed by one, and wrong everywhere else.
    """

    options: ZeroqOptions

    def __init__(self, options: ZeroqOptions, ctx: Context) -> None:
        super().__init__(options, ctx)
        self.watched = Watched(ctx.teacher.module, options.statistics == "image")
        self.distance = Distance(options, self.watched.norms)
        self.limits = pixel_limits(ctx.teacher.inputs, ctx.device) if options.clamp else None
        self.classed = isinstance(ctx.teacher.task, Classed)

    def enough(self, metrics: Mapping[str, Tensor]) -> bool:
        """As the option ``early_stop`` says."""
        stop = self.options.early_stop
        return stop is not None and float(metrics["loss"]) <= stop * (len(self.watched.norms) + 1)

    def loss(self, x: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """bn_weight · distance + input_weight · input distance + class_weight · cross-entropy; and what to show of it."""
        o = self.options
        with self.ctx.precision.autocast():
            output, seen = self.watched(x)
        distance = self.distance(seen)
        loss, metrics = o.bn_weight * distance, {"bns": distance.detach()}
        if o.input_weight:
            loss = loss + o.input_weight * input_distance(x, o)
        if o.class_weight and self.classed:
            ce = F.cross_entropy(self.ctx.teacher.task.logits(output).float(), targets)
            loss, metrics["ce"] = loss + o.class_weight * ce, ce.detach()
        return loss, {"loss": loss.detach(), **metrics}


class Plateau:
    """A rate that falls by :data:`FACTOR` after more than :data:`PATIENCE` steps without improvement, wholly on the device.

    The same rate, step by step, as ``torch.optim.lr_scheduler.ReduceLROnPlateau``, which reads every loss back to the host.
    ``lr`` is a tensor that Adam reads. ``patience`` takes the place of :data:`PATIENCE`.
    """

    def __init__(self, lr: float, device: torch.device, patience: int | None = None) -> None:
        self.patience = PATIENCE if patience is None else patience
        self.lr = torch.tensor(lr, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        self._best = torch.full_like(self.lr, math.inf)
        self._bad = torch.zeros_like(self.lr)

    def state_dict(self) -> dict[str, Tensor]:
        """Rate, best loss, and steps without improvement."""
        return {"lr": self.lr, "best": self._best, "bad": self._bad}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What :meth:`state_dict` gave."""
        for own, name in ((self.lr, "lr"), (self._best, "best"), (self._bad, "bad")):
            own.copy_(state[name])

    def step(self, loss: Tensor) -> None:
        """Take note of a loss."""
        loss = loss.to(self.lr.dtype)
        better = loss < self._best * (1 - THRESHOLD)
        self._best = torch.where(better, loss, self._best)
        self._bad = torch.where(better, 0.0, self._bad + 1)
        due = self._bad > self.patience
        self.lr.copy_(torch.where(due, (self.lr * FACTOR).clamp_min(MIN_LR), self.lr))
        self._bad = torch.where(due, 0.0, self._bad)


class _Parts(NamedTuple):
    """What :meth:`Descent.make` sets up for a batch."""

    adam: torch.optim.Optimizer
    plateau: Plateau | None
    spectrum: Spectrum | None


def start(init: str, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Noise of ``shape`` from ``rng``, a generator of the CPU.

    ``released``: integers 0 to 254, less 127.5, divided by 5418.75, which is their variance and not, as the authors mean, its root.
    """
    if init == "released":
        return (torch.randint(0, 255, shape, generator=rng).float() - 127.5) / 5418.75
    if init == "uniform":
        return (torch.rand(shape, generator=rng) * 2 - 1) * math.sqrt(3)
    return torch.randn(shape, generator=rng)
