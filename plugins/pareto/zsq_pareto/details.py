"""Describes the chosen bits and the alternatives for the report: ``Student.details``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zsq_pareto.costs import Layer, operations, size
from zsq_pareto.frontier import Choices, Frontier
from zsq_pareto.joint import Joint

#: Bits of a MB of 2^20 bytes.
MB = 8 * 2**20
#: Points of the frontier in the report.
_POINTS = 200


@dataclass(frozen=True)
class Choice:
    """A frontier with the point ``index`` of the budget, the same bits everywhere, and what was chosen: bits by name.

    ``act_bits`` are those of sites that are not chosen, ``bops`` says what costs count, and ``joint`` is None if losses add up.
    """

    layers: Mapping[str, Layer]
    harm: Mapping[str, Mapping[int, float]]
    act_bits: Mapping[str, int]
    bops: bool
    frontier: Frontier
    index: int
    uniform: Choices
    chosen: Mapping[str, int]
    joint: Joint | None

    def details(self) -> dict[str, Any]:
        """All of it, in plain numbers."""
        shown = np.unique(np.linspace(0, len(self.frontier.costs) - 1, _POINTS).round().astype(int))
        bits = {**self.act_bits, **self.chosen}
        told = self._assignment(self.chosen)
        told |= {
            "mean_bits": size(self.layers, bits) / sum(layer.params for layer in self.layers.values()),
            **self._costs(bits),
            "uniform": [self._row(self.uniform.named(i)) for i in range(len(self.uniform.costs))],
            "sensitivities": {name: {str(k): loss for k, loss in own.items()} for name, own in self.harm.items()},
            "cost": "bit operations" if self.bops else "MB",
            "frontier": [[float(self.frontier.costs[i]) / self._unit, float(self.frontier.losses[i])] for i in shown],
            "chosen": self._point(self.chosen),
            "points": len(self.frontier.costs),
        }
        if self.joint is not None:
            additive = self.frontier.choices([self.index]).named(0)
            told["additive"] = {**self._assignment(additive), "chosen": self._point(additive)}
        return told

    @property
    def _unit(self) -> int:
        return 1 if self.bops else MB

    def _assignment(self, own: Mapping[str, int]) -> dict[str, Any]:
        """Bits by path, and predictions."""
        bits = {**self.act_bits, **own}
        return {
            "assignment": {name: bits[name] for name in self.layers},
            "act_assignment": {name: b for name, b in bits.items() if name not in self.layers},
            **self._predictions(own),
        }

    def _row(self, own: Mapping[str, int]) -> dict[str, Any]:
        """The same bits everywhere."""
        sites = [own[name] for name in own if name not in self.layers]
        row = {"bits": own[next(iter(self.layers))], **self._costs({**self.act_bits, **own}), **self._predictions(own)}
        return row | ({"act_bits": sites[0]} if sites else {})

    def _costs(self, bits: Mapping[str, int]) -> dict[str, Any]:
        return {"size_mb": size(self.layers, bits) / MB, "bops": operations(self.layers, bits)}

    def _predictions(self, own: Mapping[str, int]) -> dict[str, float]:
        found = {"predicted_kl": self._sum(own)}
        return found if self.joint is None else {**found, "joint_kl": self.joint.predicted(own)}

    def _point(self, own: Mapping[str, int]) -> list[float]:
        """Cost and summed loss."""
        bits = {**self.act_bits, **own}
        return [(operations if self.bops else size)(self.layers, bits) / self._unit, self._sum(own)]

    def _sum(self, own: Mapping[str, int]) -> float:
        return sum(self.harm[name][bits] for name, bits in own.items())
