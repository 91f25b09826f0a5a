"""Optimises one batch of images after another with Adam, on pixels or on Fourier coefficients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

#: Of the schedule ``plateau``: factor, smallest learning rate, and the relative improvement that counts.
_FACTOR, _MIN_LR, _THRESHOLD = 0.1, 1e-4, 1e-4


class Descent:
    """Optimises batches of images. A subclass gives the loss that is minimised (``loss``).

    Args:
        steps: Adam steps for every batch.
        lr: Learning rate at the start.
        schedule: Of the learning rate: ``cosine`` falls to zero, ``plateau`` see :class:`Plateau`, ``constant``.
        basis: What Adam changes: ``pixels``, or ``spectrum``, see :class:`Spectrum`.
        limits: Smallest and largest value of the images, each (1, C, 1, 1); None does not clip them.
        patience: Of the schedule ``plateau``.

    ``done`` is the number of steps made on the current batch.
    """

    def __init__(self, steps: int, lr: float, schedule: str = "cosine", basis: str = "pixels",
                 limits: tuple[Tensor, Tensor] | None = None, patience: int = 100) -> None:  # fmt: skip
        self.steps, self.lr, self.schedule, self.basis, self.limits, self.patience = steps, lr, schedule, basis, limits, patience
        self.done = 0
        self._adam: torch.optim.Optimizer | None = None
        self._plateau: Plateau | None = None
        self._spectrum: Spectrum | None = None
        self._loaded: Mapping[str, Any] | None = None

    def make(self, x: Tensor, targets: Tensor) -> Iterator[tuple[bool, Mapping[str, Tensor]]]:
        """Optimise ``x`` (N, C, H, W, a leaf that requires a gradient, channels_last) in place.

        Yields after every step whether it was the last one, and the metrics of the loss. No value is copied from the device to the
        host, unless :meth:`enough` does it.
        """
        spectrum = self._spectrum = Spectrum(x.detach()) if self.basis == "spectrum" else None
        optimised = x if spectrum is None else spectrum.waves
        plateau = self._plateau = Plateau(self.lr, x.device, self.patience) if self.schedule == "plateau" else None
        adam = self._adam = torch.optim.Adam([optimised], plateau.lr if plateau else self.lr, fused=True)
        self.done = 0
        if self._loaded is not None:
            self.restore(self._loaded)
            self._loaded = None
        for step in range(self.done, self.steps):
            if self.schedule == "cosine":
                adam.param_groups[0]["lr"] = 0.5 * self.lr * (1 + math.cos(math.pi * step / self.steps))
            with torch.enable_grad():
                loss, metrics = self.loss(x if spectrum is None else spectrum.images(self.limits), targets)
                if self.enough(metrics):
                    yield True, metrics
                    return
                loss.backward(inputs=[optimised])  # type: ignore[no-untyped-call]
            adam.step()
            optimised.grad = None
            if plateau:
                plateau.step(loss.detach())
            with torch.no_grad():
                if spectrum is not None:
                    x.copy_(spectrum.images(self.limits))
                elif self.limits is not None:
                    x.clamp_(*self.limits)
            self.done = step + 1
            yield step + 1 == self.steps, metrics

    def loss(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, a scalar, and its metrics by name, detached."""
        raise NotImplementedError

    def enough(self, metrics: Mapping[str, Tensor]) -> bool:
        """Whether to end the batch before its last step."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """The resumable state of the current batch, without its images."""
        assert self._adam is not None
        return {
            "done": self.done,
            "adam": self._adam.state_dict(),
            "plateau": self._plateau and self._plateau.state_dict(),
            "waves": self._spectrum and self._spectrum.waves,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next :meth:`make` continues from this state; it must be called with the images of that moment."""
        self._loaded = state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Copy a loaded state into the objects that :meth:`make` has just created."""
        assert self._adam is not None
        self.done = state["done"]
        self._adam.load_state_dict(state["adam"])
        if self._plateau is not None:
            self._plateau.load_state_dict(state["plateau"])
            self._adam.param_groups[0]["lr"] = self._plateau.lr
        if self._spectrum is not None:
            with torch.no_grad():
                self._spectrum.waves.copy_(state["waves"])


class Plateau:
    """Multiplies the learning rate by 0.1 after more than ``patience`` steps without improvement, down to 0.0001.

    Gives the same learning rates as ``torch.optim.lr_scheduler.ReduceLROnPlateau``, but computes on the device: that one copies every
    loss to the host. ``lr`` is a tensor that Adam reads.
    """

    def __init__(self, lr: float, device: torch.device, patience: int = 100) -> None:
        self.patience = patience
        self.lr = torch.tensor(lr, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        self._best = torch.full_like(self.lr, math.inf)
        self._bad = torch.zeros_like(self.lr)

    def state_dict(self) -> dict[str, Tensor]:
        """Learning rate, best loss, and number of steps without improvement."""
        return {"lr": self.lr, "best": self._best, "bad": self._bad}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for own, name in ((self.lr, "lr"), (self._best, "best"), (self._bad, "bad")):
            own.copy_(state[name])

    def step(self, loss: Tensor) -> None:
        """Update the learning rate from the loss of a step."""
        loss = loss.to(self.lr.dtype)
        better = loss < self._best * (1 - _THRESHOLD)
        self._best = torch.where(better, loss, self._best)
        self._bad = torch.where(better, 0.0, self._bad + 1)
        due = self._bad > self.patience
        self.lr.copy_(torch.where(due, (self.lr * _FACTOR).clamp_min(_MIN_LR), self.lr))
        self._bad = torch.where(due, 0.0, self._bad)


class Spectrum:
    """A batch of real images as Fourier coefficients ``waves``; ``images()`` computes the images, differentiable in ``waves``.

    A coefficient of frequency f (cycles per pixel) is multiplied by 1 / f; f is at least the frequency of one wave over the longer
    side. Photographs have such a spectrum. Adam changes every coefficient by a similar amount, so large shapes appear first and
    little of the noise remains. With pixels the noise remains, as textures that no photograph has. The idea is from feature
    visualization (Olah et al., Distill 2017).

    Args:
        noise: (N, C, H, W), white, of variance 1; images start as the same noise with the spectrum of photographs, of variance 1.

    ``waves`` is a leaf, (N, C, H, W // 2 + 1, 2): real and imaginary parts, of variance 1 at the start.
    """

    def __init__(self, noise: Tensor) -> None:
        self.size = noise.shape[-2], noise.shape[-1]
        height, width = self.size
        rows, columns = torch.fft.fftfreq(height, device=noise.device), torch.fft.rfftfreq(width, device=noise.device)
        frequency = (rows[:, None].square() + columns.square()).sqrt().clamp_min(1 / max(height, width))
        whole = (rows[:, None].square() + torch.fft.fftfreq(width, device=noise.device).square()).sqrt().clamp_min(1 / max(height, width))
        self.scale = math.sqrt(0.5) / (frequency * whole.reciprocal().square().mean().sqrt())
        waves = torch.view_as_real(torch.fft.rfft2(noise.float(), norm="ortho")) * math.sqrt(2)
        self.waves = waves.contiguous().requires_grad_()

    def images(self, limits: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(N, C, H, W), channels_last; clipped to ``limits`` where they are given."""
        images: Tensor = torch.fft.irfft2(torch.view_as_complex(self.waves) * self.scale, s=self.size, norm="ortho")
        if limits is not None:
            images = images.clamp(*limits)
        return images.contiguous(memory_format=torch.channels_last)
