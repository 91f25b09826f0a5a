"""Gradient inundation: an optimizer that makes each layer's step long enough to change a share of its integer codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsq_ait import AitOptions
from zsq_ait.codes import Codes, Layer


class Inundation(torch.optim.Optimizer):
    """SGD with Nesterov momentum and steps that are ``kappa`` times as long; every layer has its own ``kappa``.

    The direction is d = g + momentum * b, with b = momentum * b + g. The step is W - kappa * lr * d; ``kappa`` does not change b.
    There is no weight decay.

    Args:
        layers: Weights and their points. From now on, only this optimizer may move the weights.
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
        """The state with the momentum and the last factors; the student saves the weights."""
        return {**super().state_dict(), "momentum": self._momentum, "kappa": self.kappa}

    def load_state_dict(self, state_dict: Any) -> None:
        """Restore the state into a new optimizer, made after the student's weights were restored."""
        own = dict(state_dict)
        self._momentum.copy_(own.pop("momentum"))
        self.kappa = own.pop("kappa").to(self.kappa.device)
        super().load_state_dict(own)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along the weights' gradients; a weight without gradient counts as one with a gradient of zero."""
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
    """The factor ``kappa`` of every layer, (layers,) float64: 1 if a step of ``lr`` changes a share ``rho`` of the codes, else larger.

    The factor is doubled from ``start`` (powers of two) until the share is reached. If ``start`` already reaches it, the factor is
    halved while the half still does. Then the last doubling is bisected. Every probe uses the range and codes of the moved weight. A
    round probes all layers at once; one layer may still double while another one bisects. On a GPU, ``start`` is 1 and the number of
    rounds is always the largest possible, because reading results would synchronize.

    Limits that the authors' code lacks: doubling ends at ``2 ** doublings``. A layer that has not reached the share there keeps
    this factor; a layer in which no code changed (gradients of zero, one weight per grid) makes the plain step.
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
