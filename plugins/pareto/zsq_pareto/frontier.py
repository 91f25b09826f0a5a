"""The Pareto frontier of sums: one choice per group, costs and losses add up (paper, section 3.2 and appendix A).

Exact: after every group all partial assignments that another one beats, in cost or loss, fall away, and no others. Costs
are integers, so that no rounding decides what fits a budget. The authors' dynamic programming counts size in bins; here
that is left to networks so deep that the list would not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Points that are kept, where nothing else is said, before thinning begins: more than any network met needs.
MOST = 2**20
#: Sums that are looked at together; bounds the memory of one step.
_CHUNK = 2**22


@dataclass(frozen=True)
class Choices:
    """Alternatives: ``costs`` (n,), ``losses`` (n,), and for every name the bits (n,) it has in each alternative."""

    costs: Ints
    losses: Floats
    bits: Mapping[str, Ints]

    def named(self, index: int) -> dict[str, int]:
        """The bits of one alternative."""
        return {name: int(values[index]) for name, values in self.bits.items()}

    def __add__(self, other: Choices) -> Choices:
        """The alternatives of both, which name the same."""
        bits = {name: np.concatenate([values, other.bits[name]]) for name, values in self.bits.items()}
        return Choices(np.concatenate([self.costs, other.costs]), np.concatenate([self.losses, other.losses]), bits)

    def best(self) -> Choices:
        """Those that no other beats."""
        kept = undominated(self.costs, self.losses)
        return Choices(self.costs[kept], self.losses[kept], {name: values[kept] for name, values in self.bits.items()})


class _Step(NamedTuple):
    """One group added: for every point, the point it came from and the alternative taken."""

    choices: Choices
    parent: NDArray[np.int32]
    pick: NDArray[np.int32]


class Frontier:
    """Points of growing cost and strictly falling loss: ``costs`` (n,), ``losses`` (n,).

    Args:
        groups: One alternative of each is taken.
        also: Assignments of every name that are candidates in any case; the frontier is nowhere above them, thinned or not.
        bins: Where more points remain after a group, the range of costs is cut into so many intervals, and of each only the
            point of least loss stays, with the cheapest of all.
    """

    def __init__(self, groups: Sequence[Choices], also: Choices | None = None, bins: int | None = None) -> None:
        costs, losses = np.zeros(1, np.int64), np.zeros(1)
        self._steps: list[_Step] = []
        for group in sorted(groups, key=lambda g: -int(np.ptp(g.costs))):  # long lists come late: less to do, less to keep
            choices = group.best()
            costs, losses, parent, pick = _expanded(costs, losses, choices)
            kept = _thinned(costs, bins or MOST)
            costs, losses = costs[kept], losses[kept]
            self._steps.append(_Step(choices, parent[kept], pick[kept]))
        self._own, self._also = len(costs), also
        if also is not None:
            costs, losses = np.concatenate([costs, also.costs]), np.concatenate([losses, also.losses])
        self._origin = undominated(costs, losses)
        self.costs, self.losses = costs[self._origin], losses[self._origin]

    def within(self, budget: int) -> int | None:
        """Index of the point of least loss that costs at most ``budget``; None if even the cheapest costs more."""
        index = int(np.searchsorted(self.costs, budget, side="right")) - 1
        return index if index >= 0 else None

    def choices(self, indices: Sequence[int] | Ints | slice = slice(None)) -> Choices:
        """Points with the bits of every name."""
        origin = self._origin[indices]
        extra = origin >= self._own
        at = np.where(extra, 0, origin)
        bits: dict[str, Ints] = {}
        for step in reversed(self._steps):
            bits |= {name: values[step.pick[at]] for name, values in step.choices.bits.items()}
            at = step.parent[at]
        if self._also is not None:
            given = np.where(extra, origin - self._own, 0)
            bits = {name: np.where(extra, self._also.bits[name][given], values) for name, values in bits.items()}
        return Choices(self.costs[indices], self.losses[indices], bits)


def undominated(costs: Ints, losses: Floats) -> NDArray[np.intp]:
    """Indices of the points of growing cost and strictly falling loss; of equal ones the first."""
    order = np.argsort(costs, kind="stable")  # merges lists that are sorted already
    losses = losses[order]
    falls = np.ones(len(order), bool)
    falls[1:] = losses[1:] < np.minimum.accumulate(losses)[:-1]
    kept = order[falls]
    last = np.ones(len(kept), bool)  # of equal cost: the last is the lowest
    last[:-1] = costs[kept][1:] != costs[kept][:-1]
    result: NDArray[np.intp] = kept[last]
    return result


def _expanded(costs: Ints, losses: Floats, choices: Choices) -> tuple[Ints, Floats, NDArray[np.int32], NDArray[np.int32]]:
    """All sums of points and alternatives that no other beats, with point and alternative."""
    count, rows = len(costs), max(1, _CHUNK // len(costs))
    parts: list[tuple[Ints, Floats, NDArray[np.int32], NDArray[np.int32]]] = []
    for start in range(0, len(choices.costs), rows):
        some = slice(start, start + rows)
        sums = (choices.costs[some, None] + costs).ravel()
        harms = (choices.losses[some, None] + losses).ravel()
        kept = undominated(sums, harms)
        parts.append((sums[kept], harms[kept], (kept % count).astype(np.int32), (start + kept // count).astype(np.int32)))
    if len(parts) == 1:
        return parts[0]
    sums, harms, parent, pick = (np.concatenate(column) for column in zip(*parts, strict=True))
    kept = undominated(sums, harms)
    return sums[kept], harms[kept], parent[kept], pick[kept]


def _thinned(costs: Ints, bins: int) -> NDArray[np.intp]:
    """Indices that remain of a frontier: all, or the last in each of ``bins`` intervals of cost and the very first."""
    if len(costs) <= bins:
        return np.arange(len(costs))
    width = int(costs[-1] - costs[0]) // bins + 1
    slot = (costs - costs[0]) // width
    last = np.flatnonzero(np.append(slot[1:] != slot[:-1], True))
    return last if last[0] == 0 else np.insert(last, 0, 0)
