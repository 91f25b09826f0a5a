"""The loss that tuners minimise: a weighted sum of the chosen losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsq.protocols import Loss
from zsq.types import View


@dataclass(frozen=True)
class Term:
    """One loss with its weight (of any sign) and its needs."""

    name: str
    loss: Loss
    weight: float = 1.0
    needs: frozenset[str] = frozenset()


class Objective:
    """The weighted sum of the losses: ``objective(view)`` returns the sum and, for display, each term unweighted and detached."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)
        self.needs: frozenset[str] = frozenset().union(*(term.needs for term in terms))

    def __call__(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        total, metrics = torch.zeros(()), {}
        for term in self.terms:
            value = term.loss(view)
            metrics[term.name] = value.detach()
            total = total + (value if term.weight == 1 else term.weight * value)
        return total, metrics
