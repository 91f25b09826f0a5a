"""Gradient inundation: an optimizer that lengthens each layer's step until it changes a share of the integer codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsq_ait import AitOptions
from zsq_ait.codes import Codes, Layer


class Inundation(torch.optim.Optimizer):
    """SGD with Nesterov momentum; each layer's step is multiplied by its own factor ``kappa``.

    The direction is d = g + momentum * b, with b = momentum * b + g. Only the step is longer, W - kappa * lr * d; b is not.
    There is no weight decay.

    Args:
        layers: Weights and their points. From here on only this optimizer moves the weights.
        options: ``rho`` falls with the learning rate of ``param_groups[0]``, which starts at ``lr``.
    """

    def __init__(self, layers: list[Layer], options: AitOptions) -> None:
        super().__init__([weight for weight, _ in layers], {"lr": options.lr})
        self.options, self.codes = options, Codes(layers)
        self.kappa = torch.ones_like(self.codes.numel)
        self._weights: list[Tensor] = [layers[i][0] for i in self.codes.order]
        self._gradient, self._momentum = torch.zeros_like(self.codes.at), torch.zeros_like(self.codes.at)
        self._values, self._gradients = self.codes.parts(self.codes.at), self.codes.parts(self._gradient)

    def state_dict(self) -> dict[str, Any]:
        """Momentum and last factors; the weights are saved with the student."""
        return {**super().state_dict(), "momentum": self._momentum, "kappa": self.kappa}

    def load_state_dict(self, state_dict: Any) -> None:
        """Load into a new optimizer that was made from the same weights."""
        own = dict(state_dict)
        self._momentum.copy_(own.pop("momentum"))
        self.kappa = own.pop("kappa").to(self.kappa.device)
        super().load_state_dict(own)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along the weights' gradients; a weight without a gradient counts as having zeros."""
        momentum, direction, lr = self.options.momentum, self.codes.direction, self.param_groups[0]["lr"]
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in self._weights]
        torch._foreach_copy_(self._gradients, gradients)
        self._momentum.mul_(momentum).add_(self._gradient)
        torch.mul(self._momentum, momentum, out=direction).add_(self._gradient)
        warm = self.options.warm and self.codes.free_looks
        start = self.kappa.log2().ceil().exp2() if warm else torch.ones_like(self.kappa)
        self.kappa = search(self.codes, lr, self.options.rho * (lr / self.options.lr), self.options, start)
        self.codes.move(self.kappa * lr)
        torch._foreach_copy_(self._weights, self._values)


def search(codes: Codes, lr: float, rho: float, options: AitOptions, start: Tensor) -> Tensor:
    """The factor of every layer, (layers,) float64: 1 where a step of ``lr`` changes a share ``rho`` of the codes, else longer.

    The factor is doubled from ``start``, powers of two, until the share is reached; where ``start`` itself reaches it, halved
    for as long as the half still does. The last doubling is bisected. Range and codes are those of the moved weight at every
    probe. A round probes all layers at once, and each layer goes its own way, one still doubling while another bisects; on a
    device where looking at the outcome would stall, ``start`` is 1 and there are always as many rounds as there can be.

    Guards that the authors' code lacks: doubling ends at ``2 ** doublings``. A layer that has not reached the share there keeps
    that factor; but one of which no code at all has changed (gradients of zero, one weight per grid) makes the plain step.
    """
    where: Any = np.where if codes.free_looks else torch.where
    longest, numel = 2.0**options.doublings, codes.array(codes.numel)
    kappa = lower = last = codes.array(start)
    codes.aim(rho, kappa * lr, longest * lr)
    flips = codes.flips(kappa * lr)
    reached = flips / numel >= rho
    growing, shrinking = ~reached & (kappa < longest), reached & (kappa > 1)
    bisecting = bisected = reached & ~reached
    left = 0 * kappa + options.rounds
    for _ in range(options.doublings + options.rounds):
        if codes.over(growing | shrinking | bisecting):
            break
        probe = where(growing, 2 * kappa, where(shrinking, kappa / 2, (lower + kappa) / 2))
        found = codes.flips(probe * lr, growing | shrinking | bisecting)
        share = found / numel
        enough, near = share >= rho, abs(share - rho) < options.tolerance * rho
        flips = where(growing, found, flips)
        last, left = where(bisecting, probe, last), left - 1.0 * bisecting
        lower = where(bisecting & ~enough, probe, lower)
        kappa = where(growing | ((shrinking | bisecting) & enough), probe, kappa)
        bracketed = (growing & enough) | (shrinking & ~enough)
        lower, bisected = where(bracketed, kappa / 2, lower), bisected | bracketed
        bisecting = (bracketed | bisecting & ~(near if options.released else near & enough)) & (left > 0)
        growing, shrinking = growing & ~enough & (kappa < longest), shrinking & enough & (kappa > 1)
    kappa = where(reached | bisected | (flips > 0), kappa, 1.0)
    return torch.as_tensor(where(bisected & (left < options.rounds), last, kappa) if options.released else kappa)
