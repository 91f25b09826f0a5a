"""Assignments whose layers' errors may add up or cancel: a quadratic form of harm, and a climb over single changes and pairs.

Not in the paper, which adds sensitivities up. Errors of layers are correlated: two that move the output the same way do four
times the harm of one, two that move it in opposite ways do none. The form is the second order of the divergence (see
:class:`~zsq_pareto.sensitivity.Sensitivities`), so that every assignment has a prediction without a forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_pareto.costs import Costs
from zsq_pareto.frontier import Floats, Ints


class Joint:
    """Harm of whole assignments, and the least of it that climbing finds under a budget.

    Args:
        items: (name, bits), those of one name in a row; an assignment takes one per name.
        gram: (I, I), symmetric: an assignment's harm is the sum over all ordered pairs of its items.
        costs: Of the same items.
        budget: Most that an assignment may cost.
    """

    def __init__(self, items: Sequence[tuple[str, int]], gram: Floats, costs: Costs, budget: int) -> None:
        self.items, self.gram, self.costs, self.budget = list(items), gram, costs, budget
        self.rows = {item: row for row, item in enumerate(self.items)}
        self.names = list(dict.fromkeys(name for name, _ in self.items))
        place = {name: group for group, name in enumerate(self.names)}
        self.group = np.array([place[name] for name, _ in self.items], np.intp)
        assert (np.diff(self.group) >= 0).all(), "the items of a name stand in a row"
        self._sizes = np.bincount(self.group)
        self._same = self.group[:, None] == self.group
        np.fill_diagonal(self._same, False)
        #: Changes below this are rounding: thousands of times what sums of as many numbers of this size lose.
        self._least = 1e-12 * float(np.abs(gram).max())
        self._onward: dict[bytes, Ints | None] = {}

    def predicted(self, bits: Mapping[str, int]) -> float:
        """Harm of an assignment, which may name more than the items do."""
        return self._harm(self._taken(bits))

    def climb(self, start: Mapping[str, int]) -> tuple[dict[str, int], float]:
        """From an assignment that fits the budget to one that no change of one or two names betters within it, and its harm.

        The best change is taken first, of equal ones the first; every one lowers the harm, so that it ends.
        """
        end = self._end(self._taken(start))
        return self._named(end), self._harm(end)

    def best(self, starts: Sequence[Mapping[str, int]]) -> dict[str, int]:
        """The end of least harm; of equal ones the cheapest, then the first."""
        ends = [self._end(self._taken(start)) for start in starts]
        return self._named(min(ends, key=lambda end: (self._harm(end), self.costs.of(end))))

    def _taken(self, bits: Mapping[str, int]) -> Ints:
        return np.array([self.rows[name, bits[name]] for name in self.names], np.int64)

    def _named(self, taken: Ints) -> dict[str, int]:
        return {self.items[row][0]: self.items[row][1] for row in taken}

    def _harm(self, taken: Ints) -> float:
        return max(float(self.gram[np.ix_(taken, taken)].sum()), 0.0)

    def _end(self, taken: Ints) -> Ints:
        """Where climbing ends; what an earlier climb found on the way is not looked for again."""
        while True:
            key = taken.tobytes()
            if key not in self._onward:
                self._onward[key] = self._step(taken)
            onward = self._onward[key]
            if onward is None:
                return taken
            taken = onward

    def _step(self, taken: Ints) -> Ints | None:
        """The assignment after the best change that fits, or None.

        Changing item i to j and k to l moves the harm by d_ij + d_kl + 2 (e_j - e_i)' G (e_l - e_k); i and k follow from j and l.
        A change to what is taken already is none, so that pairs contain single changes; the diagonal holds them too.
        """
        moved = self._differences(self.gram, taken)
        slope = self.gram[:, taken].sum(1)
        single = 2 * (slope - self._spread(slope[taken])) + moved.diagonal()
        harm = single[:, None] + single + 2 * moved
        np.fill_diagonal(harm, single)
        price = self.costs.own
        if self.costs.cross is not None:
            price = price + self.costs.cross[:, taken].sum(1)
        price = price - self._spread(price[taken])
        cost = price[:, None] + price
        if self.costs.cross is not None:
            cost += self._differences(self.costs.cross, taken)
        np.fill_diagonal(cost, price)
        harm[self._same | (cost > self.budget - self.costs.of(taken))] = np.inf
        first, second = divmod(int(harm.argmin()), len(harm))
        if harm[first, second] >= -self._least:
            return None
        onward = taken.copy()
        onward[self.group[first]], onward[self.group[second]] = first, second
        return onward

    def _differences(self, form: NDArray[Any], taken: Ints) -> NDArray[Any]:
        """(e_j - e_i)' form (e_l - e_k) for all items j and l, with i and k those of their names that are taken."""
        across = form - self._spread(form[:, taken], 1)
        found: NDArray[Any] = across - self._spread(across[taken])
        return found

    def _spread(self, values: NDArray[Any], axis: int = 0) -> NDArray[Any]:
        """What belongs to the names, for each of their items."""
        return np.repeat(values, self._sizes, axis)
