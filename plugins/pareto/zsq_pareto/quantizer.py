"""The quantizer ``pareto``: the student of ``uniform``, with the bits per layer that do least harm under a budget."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsq.errors import ZsqError
from zsq.files import Cache
from zsq.grids import WeightPoint
from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.types import Batch, Beat, Context, Student, Teacher
from zsq_pareto import BUDGETS, ParetoOptions
from zsq_pareto.costs import Layer, layers_of, multiply_adds, operation_costs, operation_groups, operations, size, size_costs, size_groups
from zsq_pareto.details import MB, Choice
from zsq_pareto.frontier import Choices, Frontier
from zsq_pareto.joint import Joint
from zsq_pareto.sensitivity import Sensitivities, calls

#: Points of the frontier that climbs start from.
_STARTS = 16

#: Values by what they are of, ``weights`` or ``acts``, and bits; ``("macs", 0)`` are multiply-adds by layer, ``("gram", 0)``
#: what moves of the output have in common, for all items: layers, then sites, each with all its bits.
Found = dict[tuple[str, int], Tensor]


class Pareto:
    """Sensitivities, a frontier, a choice (ZeroQ, section 3.2).

    With ``interactions``, which are not the paper's, the choice is the least of a joint prediction (:class:`Joint`) that climbs
    from points of the frontier and from uniform bits lead to; without, losses of layers are taken to add up, as in the paper,
    and the choice is the frontier's. Weights of all layers are live on the min/max grids of ``uniform``; activation points have
    no range yet.
    """

    def __init__(self, options: ParetoOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx
        self.candidates, self.widths = sorted(set(options.candidates)), tuple(sorted(set(options.act_candidates)))
        self.budget = next((name for name in BUDGETS if getattr(options, name) is not None), "mean_bits")
        self.measured: tuple[Student, Found] | None = None

    def prepare(self, teacher: Teacher, pool: Batch) -> Iterator[Beat]:
        """Trace the student and get its sensitivities: from the cache where they are there, else measured, a beat a trial."""
        o = self.options
        shared = {name: getattr(o, name) for name in ("act_bits", "weight_symmetric", "act_symmetric", "per_channel", "scheme")}
        student = Uniform(UniformOptions(**shared), self.ctx).quantize(teacher, None)
        found = yield from self._found(student, teacher, pool.inputs[: o.images].to(self.ctx.device))
        self.measured = student, found

    def quantize(self, teacher: Teacher, pool: Batch | None) -> Student:
        """A student whose layers have bits of their own; ``details`` says which, and what else there was to choose.

        Raises:
            ZsqError: If the network cannot be traced or has nothing to quantize, or no assignment fits the budget.
        """
        assert pool is not None, "a quantizer that needs a pool is given one"
        if self.measured is None:
            for _ in self.prepare(teacher, pool):
                pass
        assert self.measured is not None
        student, found = self.measured
        choice = self._choice(student, found)
        for name, bits in choice.chosen.items():
            (student.acts[name] if name in student.acts else student.weights[f"{name}.weight_point"]).bits = bits
        rows = [_with_bits(row, choice.chosen) for row in student.layers]
        details = {"budget": {self.budget: self._value}, **choice.details()}
        self._draw(details)
        return replace(student, layers=rows, details={**student.details, **details})

    # Sensitivities

    def _found(self, student: Student, teacher: Teacher, inputs: Tensor) -> Generator[Beat, None, Found]:
        """Sensitivities of layers and of sites by bits, and multiply-adds."""
        cache = Cache(self.ctx.cache if teacher.fingerprint else None, "sensitivities")
        key = self._key(student, teacher, inputs)
        wanted = {("weights", k): key | {"weights": k} for k in self.candidates}
        wanted |= {("acts", b): key | self._act_key() | {"acts": b} for b in self.widths}
        wanted["macs", 0] = key | {"macs": True}
        sizes = {"weights": len(student.weights), "acts": len(student.acts)}
        if self.options.interactions:
            acts = self._act_key() if self.widths else {}
            wanted["gram", 0] = key | acts | {"gram": [self.candidates, self.widths]}
            sizes["gram"] = len(student.weights) * len(self.candidates) + len(student.acts) * len(self.widths)
        found: Found = {}
        for what, own in wanted.items():
            kept = (cache.load(own) or {}).get("values")
            if kept is not None and len(kept) >= sizes.get(what[0], 1):
                found[what] = kept
        if missing := wanted.keys() - found.keys():
            if ("gram", 0) in missing:  # of all items at once
                missing = set(wanted)
            found |= yield from self._measure(student, teacher, inputs, missing)
            for what in missing:
                cache.save(wanted[what], {"values": found[what]})
        else:
            self.ctx.log("sensitivities from the cache")
        return found

    def _measure(self, student: Student, teacher: Teacher, inputs: Tensor, missing: set[tuple[str, int]]) -> Generator[Beat, None, Found]:
        work = Sensitivities(student, teacher.task, inputs, self.options.act_percent)
        weights, acts = (sorted(bits for kind, bits in missing if kind == which) for which in ("weights", "acts"))
        yield from work.measure(weights, acts)
        found: Found = {("weights", bits): values for bits, values in work.weights.items()}
        found |= {("acts", bits): values for bits, values in work.acts.items()}
        return found | {("macs", 0): multiply_adds(student, inputs[:2]), ("gram", 0): work.gram}

    def _key(self, student: Student, teacher: Teacher, inputs: Tensor) -> dict[str, Any]:
        """Everything that sensitivities of weights depend on but the bits."""
        point = next(iter(student.weights.values()))
        assert isinstance(point, WeightPoint)
        images = np.ascontiguousarray(inputs.detach().float().cpu().numpy())
        return {
            "quant": f"pareto {version('zsq-pareto')}",
            "teacher": teacher.fingerprint,
            "layers": list(student.weights),
            "images": [list(images.shape), hashlib.sha256(images.tobytes()).hexdigest()],
            "grid": {"symmetric": point.symmetric, "per_channel": self.options.per_channel},
            "device": self.ctx.device.type,
            "torch": torch.__version__,
        }

    def _act_key(self) -> dict[str, Any]:
        o = self.options
        return {"scheme": o.scheme, "act_symmetric": bool(o.act_symmetric), "percent": o.act_percent}

    # The choice

    def _choice(self, student: Student, found: Found) -> Choice:
        """The frontier, what fits the budget of it, and what is chosen."""
        layers = layers_of(student, found["macs", 0])
        sites = [path for path in calls(student) if path in student.acts] if self.widths else []
        harm = {name: {k: float(found["weights", k][i]) for k in self.candidates} for i, name in enumerate(layers)}
        harm |= {name: {b: float(found["acts", b][i]) for b in self.widths} for i, name in enumerate(sites)}
        act_bits = {path: point.bits for path, point in student.acts.items()}
        bops = self.budget == "bops"
        groups = operation_groups(layers, harm, act_bits, self.widths) if bops else size_groups(layers, harm)
        uniform = self._uniform(layers, harm, act_bits)
        frontier = Frontier(groups, uniform, self.options.bins)
        index = self._within(frontier, layers)
        joint, chosen = None, frontier.choices([index]).named(0)
        if self.options.interactions:
            items = [(name, bits) for name, own in harm.items() for bits in own]
            costs = operation_costs(layers, items, act_bits) if bops else size_costs(layers, items)
            joint = Joint(items, found["gram", 0].numpy(), costs, self._limit(layers))
            chosen = joint.best([chosen, *self._starts(frontier, index, uniform, joint.budget)])
        return Choice(layers, harm, act_bits, bops, frontier, index, uniform, chosen, joint)

    def _starts(self, frontier: Frontier, index: int, uniform: Choices, limit: int) -> list[dict[str, int]]:
        """Where climbs start beside the paper's choice: the same bits everywhere, and points of the frontier below the budget."""
        fitting = [uniform.named(int(i)) for i in np.flatnonzero(uniform.costs <= limit)]
        points = frontier.choices(np.unique(np.linspace(0, index, _STARTS).round().astype(int)))
        return [*fitting, *(points.named(i) for i in range(len(points.costs)))]

    def _uniform(self, layers: Mapping[str, Layer], harm: Mapping[str, Mapping[int, float]], act_bits: Mapping[str, int]) -> Choices:
        """The same bits everywhere: for every candidate, with every width of activations that there is to choose."""
        pairs = list(product(self.candidates, self.widths or (0,)))
        names = {name: np.array([b if name in act_bits else k for k, b in pairs]) for name in harm}
        costs = [self._cost(layers, {**act_bits, **{name: int(bits[i]) for name, bits in names.items()}}) for i in range(len(pairs))]
        losses = [sum(harm[name][int(bits[i])] for name, bits in names.items()) for i in range(len(pairs))]
        return Choices(np.array(costs, np.int64), np.array(losses), names)

    def _cost(self, layers: Mapping[str, Layer], bits: Mapping[str, int]) -> int:
        return operations(layers, bits) if self.budget == "bops" else size(layers, bits)

    def _limit(self, layers: Mapping[str, Layer]) -> int:
        """The budget in whole bits or bit operations."""
        return int(self._value * self._unit(layers))

    def _unit(self, layers: Mapping[str, Layer]) -> int:
        return {"mean_bits": sum(layer.params for layer in layers.values()), "size_mb": MB, "bops": 1}[self.budget]

    def _within(self, frontier: Frontier, layers: Mapping[str, Layer]) -> int:
        """The frontier's point of the budget.

        Raises:
            ZsqError: If there is none; names the smallest budget.
        """
        index = frontier.within(self._limit(layers))
        if index is None:
            least, params = int(frontier.costs[0]), sum(layer.params for layer in layers.values())
            smallest = f"{least} bit operations" if self.budget == "bops" else f"{least / MB:.4g} MB, {least / params:.4g} bits a weight"
            what = f"{self.budget}={self._value:g} is too little: the smallest student of these candidates has {smallest}"
            enough = least if self.budget == "bops" else -(-least * 10**6 // self._unit(layers)) / 10**6
            raise ZsqError(what, "quantizer 'pareto'", f"set quant.{self.budget}={enough} or more, or add smaller candidates")
        return index

    @property
    def _value(self) -> float:
        given = getattr(self.options, self.budget)
        return 4.0 if given is None else float(given)

    def _draw(self, details: Mapping[str, Any]) -> None:
        if self.ctx.workdir is not None:
            from zsq_pareto.picture import draw

            draw(details, self.ctx.workdir / "pareto.png")


def _with_bits(row: Mapping[str, Any], bits: Mapping[str, int]) -> dict[str, Any]:
    """A row of ``Student.layers`` with the bits chosen."""
    kind = "act_bits" if row["type"] == "activation" else "weight_bits"
    return {**row, kind: bits.get(row["path"], row[kind])} if row["wrapped"] else dict(row)
