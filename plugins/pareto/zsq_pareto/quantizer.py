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

from zsq.builtin.options import UniformOptions
from zsq.builtin.uniform.quantizer import Uniform
from zsq.errors import ZsqError
from zsq.run.cache import Cache
from zsq.types import Batch, Beat, Context, Student, Teacher
from zsq_pareto import BUDGETS, ParetoOptions
from zsq_pareto.costs import Layer, layers_of, multiply_adds, operation_groups, size_groups
from zsq_pareto.frontier import Choices, Frontier
from zsq_pareto.sensitivity import Sensitivities

#: Bits of a MB of 2^20 bytes.
_MB = 8 * 2**20
#: Points of the frontier in the report.
_POINTS = 200

#: Values by what they are of, ``weights`` or ``acts``, and bits; ``("macs", 0)`` are multiply-adds by layer.
Found = dict[tuple[str, int], Tensor]


class Pareto:
    """Sensitivities, a frontier, a choice (ZeroQ, section 3.2). Losses of layers are taken to add up, as in the paper.

    Weights of all layers are live on the min/max grids of ``uniform``; activation points have no range yet.
    """

    def __init__(self, options: ParetoOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx
        self.candidates, self.widths = sorted(set(options.candidates)), tuple(sorted(set(options.act_candidates)))
        self.budget = next((name for name in BUDGETS if getattr(options, name) is not None), "mean_bits")
        self.measured: tuple[Student, dict[int, Tensor], dict[int, Tensor], Tensor] | None = None

    def prepare(self, teacher: Teacher, pool: Batch) -> Iterator[Beat]:
        """Trace the student and get its sensitivities: from the cache where they are there, else measured, a beat a trial."""
        o = self.options
        shared = {name: getattr(o, name) for name in ("act_bits", "weight_symmetric", "act_symmetric", "per_channel", "protocol")}
        student = Uniform(UniformOptions(**shared), self.ctx).quantize(teacher, None)
        found = yield from self._found(student, teacher, pool.inputs[: o.images].to(self.ctx.device))
        weights, acts = ({bits: found[kind, bits] for bits in all_} for kind, all_ in (("weights", self.candidates), ("acts", self.widths)))
        self.measured = student, weights, acts, found["macs", 0]

    def quantize(self, teacher: Teacher, pool: Batch | None) -> Student:
        """A student whose layers have bits of their own; ``details`` says which, and what else there was to choose.

        Raises:
            ZsqError: When the network cannot be traced or has nothing to quantize, or no assignment fits the budget.
        """
        assert pool is not None, "a quantizer that needs a pool is given one"
        if self.measured is None:
            for _ in self.prepare(teacher, pool):
                pass
        assert self.measured is not None
        student, weights, acts, macs = self.measured
        layers = layers_of(student, macs)
        harm = {**_rows(layers, weights), **_rows(student.acts, acts)}
        act_bits = {path: point.bits for path, point in student.acts.items()}
        bops = self.budget == "bops"
        groups = operation_groups(layers, harm, act_bits, self.widths) if bops else size_groups(layers, harm)
        uniform = self._uniform(layers, harm, act_bits)
        frontier = Frontier(groups, uniform, self.options.bins)
        index = self._choose(frontier, layers)
        chosen = {name: int(bits[0]) for name, bits in frontier.choices([index]).bits.items()}
        for name, bits in chosen.items():
            (student.acts[name] if name in student.acts else student.weights[f"{name}.weight_point"]).bits = bits
        rows = [_with_bits(row, chosen) for row in student.layers]
        details = self._details(layers, harm, {**act_bits, **chosen}, frontier, index, uniform)
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
        found: Found = {}
        for what, own in wanted.items():
            kept = (cache.load(own) or {}).get("values")
            if kept is not None and len(kept) >= sizes.get(what[0], 1):
                found[what] = kept
        if missing := wanted.keys() - found.keys():
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
        return found | {("macs", 0): multiply_adds(student, inputs[:2])}

    def _key(self, student: Student, teacher: Teacher, inputs: Tensor) -> dict[str, Any]:
        """Everything that sensitivities of weights depend on but the bits."""
        point: Any = next(iter(student.weights.values()))
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
        return {"protocol": o.protocol, "act_symmetric": bool(o.act_symmetric), "percent": o.act_percent}

    # The choice

    def _uniform(self, layers: Mapping[str, Layer], harm: Mapping[str, Mapping[int, float]], act_bits: Mapping[str, int]) -> Choices:
        """The same bits everywhere: for every candidate, with every width of activations that there is to choose."""
        pairs = list(product(self.candidates, self.widths or (0,)))
        names = {name: np.array([b if name in act_bits else k for k, b in pairs]) for name in harm}
        costs = [self._cost(layers, {**act_bits, **{name: int(bits[i]) for name, bits in names.items()}}) for i in range(len(pairs))]
        losses = [sum(harm[name][int(bits[i])] for name, bits in names.items()) for i in range(len(pairs))]
        return Choices(np.array(costs, np.int64), np.array(losses), names)

    def _cost(self, layers: Mapping[str, Layer], bits: Mapping[str, int]) -> int:
        return _operations(layers, bits) if self.budget == "bops" else _size(layers, bits)

    def _choose(self, frontier: Frontier, layers: Mapping[str, Layer]) -> int:
        """The point of the budget.

        Raises:
            ZsqError: When there is none; names the smallest budget.
        """
        params = sum(layer.params for layer in layers.values())
        unit = {"mean_bits": params, "size_mb": _MB, "bops": 1}[self.budget]
        index = frontier.within(int(self._value * unit))
        if index is None:
            least = int(frontier.costs[0])
            smallest = f"{least} bit operations" if self.budget == "bops" else f"{least / _MB:.4g} MB, {least / params:.4g} bits a weight"
            what = f"{self.budget}={self._value:g} is too little: the smallest student of these candidates has {smallest}"
            enough = least if self.budget == "bops" else -(-least * 10**6 // unit) / 10**6
            raise ZsqError(what, "quantizer 'pareto'", f"set quant.{self.budget}={enough} or more, or add smaller candidates")
        return index

    @property
    def _value(self) -> float:
        given = getattr(self.options, self.budget)
        return 4.0 if given is None else float(given)

    # The report

    def _details(self, layers: Mapping[str, Layer], harm: Mapping[str, Mapping[int, float]], bits: Mapping[str, int], frontier: Frontier,
                 index: int, uniform: Choices) -> dict[str, Any]:  # fmt: skip
        params, act_bits = sum(layer.params for layer in layers.values()), {name: b for name, b in bits.items() if name not in layers}
        unit = 1 if self.budget == "bops" else _MB
        size = _size(layers, bits)
        shown = np.unique(np.linspace(0, len(frontier.costs) - 1, _POINTS).round().astype(int))
        rows = []
        for i, loss in enumerate(uniform.losses.tolist()):
            own = {**act_bits, **{name: int(b[i]) for name, b in uniform.bits.items()}}
            row = {
                "bits": own[next(iter(layers))],
                "size_mb": _size(layers, own) / _MB,
                "bops": _operations(layers, own),
                "predicted_kl": loss,
            }
            rows.append(row | ({"act_bits": own[next(iter(act_bits))]} if self.widths and act_bits else {}))
        return {
            "assignment": {name: bits[name] for name in layers},
            "act_assignment": act_bits,
            "budget": {self.budget: self._value},
            "mean_bits": size / params,
            "size_mb": size / _MB,
            "bops": _operations(layers, bits),
            "predicted_kl": float(frontier.losses[index]),
            "uniform": rows,
            "sensitivities": {name: {str(k): loss for k, loss in own.items()} for name, own in harm.items()},
            "cost": "bit operations" if self.budget == "bops" else "MB",
            "frontier": [[float(frontier.costs[i]) / unit, float(frontier.losses[i])] for i in shown],
            "chosen": [float(frontier.costs[index]) / unit, float(frontier.losses[index])],
            "points": len(frontier.costs),
        }

    def _draw(self, details: Mapping[str, Any]) -> None:
        if self.ctx.workdir is not None:
            from zsq_pareto.picture import draw

            draw(details, self.ctx.workdir / "pareto.png")


def _size(layers: Mapping[str, Layer], bits: Mapping[str, int]) -> int:
    """Bits of all weights."""
    return sum(layer.params * bits[name] for name, layer in layers.items())


def _operations(layers: Mapping[str, Layer], bits: Mapping[str, int]) -> int:
    """Bit operations of one image."""
    return sum(layer.operations(bits) * bits[name] for name, layer in layers.items())


def _rows(names: Any, values: Mapping[int, Tensor]) -> dict[str, dict[int, float]]:
    """Name to bits to sensitivity."""
    return {name: {bits: float(column[i]) for bits, column in values.items()} for i, name in enumerate(names)} if values else {}


def _with_bits(row: Mapping[str, Any], bits: Mapping[str, int]) -> dict[str, Any]:
    """A row of ``Student.layers`` with the bits chosen."""
    kind = "act_bits" if row["type"] == "activation" else "weight_bits"
    return {**row, kind: bits.get(row["path"], row[kind])} if row["wrapped"] else dict(row)
