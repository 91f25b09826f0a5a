"""Computes the cost of an assignment: bits of all weights, or bit operations of one image, as exact integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor, fx, nn

from zsq.errors import ZsqError
from zsq.graph import PartialRun, producer
from zsq.training import full_precision
from zsq.types import Student
from zsq_pareto.frontier import Choices, Frontier, Ints
from zsq_pareto.sensitivity import calls

#: Bits of an input that no activation point puts on a grid.
FLOAT = 32
#: Largest number of combinations of activation bits tried for one group.
_MOST = 4096


@dataclass(frozen=True)
class Call:
    """One use of a layer: the activation point its input comes from, or nothing, and its multiply-adds for one image."""

    site: str
    macs: int


@dataclass(frozen=True)
class Layer:
    """A layer's number of weights, and its calls."""

    params: int
    calls: tuple[Call, ...]

    def operations(self, act_bits: Mapping[str, int]) -> int:
        """Bit operations per bit of weight: input bits times multiply-adds."""
        return sum(act_bits.get(call.site, FLOAT) * call.macs for call in self.calls)


def layers_of(student: Student, macs: Tensor) -> dict[str, Layer]:
    """Path to layer, given what :func:`multiply_adds` found."""
    found, rest = {}, iter(macs.tolist())
    for path, nodes in calls(student).items():
        if path not in student.acts:
            uses = tuple(Call(_site(student, node), int(next(rest))) for node in nodes)
            found[path] = Layer(_weights(student.module.get_submodule(path)), uses)
    return found


def multiply_adds(student: Student, inputs: Tensor) -> Tensor:
    """Multiply-adds for one image, int64: call by call, layer by layer; from one forward of the given images."""
    assert isinstance(student.module, fx.GraphModule)
    uses = [node for path, nodes in calls(student).items() if path not in student.acts for node in nodes]
    found: dict[fx.Node, int] = {}
    partial = PartialRun(student.module, inputs)
    with full_precision(student):
        for node in sorted(uses, key=partial.order.__getitem__):
            partial.advance(node)
            x, y = partial.values[node.all_input_nodes[0]], partial.value
            layer = student.module.get_submodule(str(node.target))
            if isinstance(layer, nn.Linear):
                places = y.numel() // y.shape[-1]
            else:
                wide = x if isinstance(layer, nn.modules.conv._ConvTransposeNd) else y
                places = len(wide) * prod(wide.shape[2:])
            found[node] = places * _weights(layer) // len(inputs)
    return torch.tensor([found[node] for node in uses])


def _weights(layer: nn.Module) -> int:
    assert isinstance(layer.weight, Tensor)
    return layer.weight.numel()


def size(layers: Mapping[str, Layer], bits: Mapping[str, int]) -> int:
    """Bits of all weights."""
    return sum(layer.params * bits[name] for name, layer in layers.items())


def operations(layers: Mapping[str, Layer], bits: Mapping[str, int]) -> int:
    """Bit operations of one image."""
    return sum(layer.operations(bits) * bits[name] for name, layer in layers.items())


@dataclass(frozen=True)
class Costs:
    """Costs of items (name, bits), of which an assignment takes one per name: ``own`` (I,), and those of pairs of items,
    ``cross`` (I, I), symmetric with a zero diagonal; None if there are none."""

    own: Ints
    cross: Ints | None = None

    def of(self, taken: Ints) -> int:
        """Cost of the items of these indices together."""
        pairs = 0 if self.cross is None else int(self.cross[np.ix_(taken, taken)].sum()) // 2
        return int(self.own[taken].sum()) + pairs


def size_costs(layers: Mapping[str, Layer], items: Sequence[tuple[str, int]]) -> Costs:
    """Weights times bits."""
    return Costs(np.array([layers[name].params * bits for name, bits in items], np.int64))


def operation_costs(layers: Mapping[str, Layer], items: Sequence[tuple[str, int]], act_bits: Mapping[str, int]) -> Costs:
    """Bit operations: bits of a layer that is an item times those of a site; sites that are no items have ``act_bits``."""
    own, rows = np.zeros(len(items), np.int64), {item: row for row, item in enumerate(items)}
    widths: dict[str, list[int]] = {}
    for name, bits in items:
        if name not in layers:
            widths.setdefault(name, []).append(bits)
    cross = np.zeros((len(items), len(items)), np.int64) if widths else None
    for row, (name, bits) in enumerate(items):
        for call in layers[name].calls if name in layers else ():
            if call.site not in widths:
                own[row] += bits * call.macs * act_bits.get(call.site, FLOAT)
            for width in widths.get(call.site, ()):
                other = rows[call.site, width]
                assert cross is not None
                cross[row, other] += bits * call.macs * width
                cross[other, row] = cross[row, other]
    return Costs(own, cross)


def size_groups(layers: Mapping[str, Layer], harm: Mapping[str, Mapping[int, float]]) -> list[Choices]:
    """One group per layer: weights times bits."""
    return [_choices(path, harm[path], layer.params) for path, layer in layers.items()]


def operation_groups(layers: Mapping[str, Layer], harm: Mapping[str, Mapping[int, float]], act_bits: Mapping[str, int],
                     widths: tuple[int, ...]) -> list[Choices]:  # fmt: skip
    """Groups of layers whose bit operations depend on the same activations.

    Args:
        layers: All layers.
        harm: Of every layer at its candidate bits and, where there are ``widths``, of every site at those.
        act_bits: Of every site, where there are no ``widths``.
        widths: Activation bits to choose from. All layers that read one site belong together: for every width of the site the
            frontier of its layers, and of all of these what no other beats. Exact.

    Raises:
        ZsqError: If one layer is called on too many sites to try all combinations of their bits.
    """
    if not widths:
        return [_choices(path, harm[path], layer.operations(act_bits)) for path, layer in layers.items()]
    groups = []
    for sites, paths in _connected(layers, set(act_bits)):
        if len(widths) ** len(sites) > _MOST:
            what = f"layer '{paths[0]}' is called on {len(sites)} activations: too many to choose their bits together"
            raise ZsqError(what, "quantizer 'pareto'", "leave out act_candidates, or give fewer")
        found: Choices | None = None
        for chosen in product(widths, repeat=len(sites)):
            own = dict(zip(sites, chosen, strict=True))
            part = Frontier([_choices(path, harm[path], layers[path].operations(own)) for path in paths]).choices()
            loss = sum(harm[site][bits] for site, bits in own.items())
            names = {**part.bits, **{site: np.full(len(part.costs), bits) for site, bits in own.items()}}
            part = Choices(part.costs, part.losses + loss, names)
            found = part if found is None else found + part
        assert found is not None
        groups.append(found.best())
    return groups


def _choices(path: str, harm: Mapping[int, float], cost: int) -> Choices:
    bits = np.array(list(harm), np.int64)
    return Choices(bits * cost, np.array(list(harm.values())), {path: bits})


def _connected(layers: Mapping[str, Layer], sites: set[str]) -> list[tuple[list[str], list[str]]]:
    """Sites, and the layers that read them: connected groups; every site and layer is in exactly one."""
    groups: list[tuple[list[str], list[str]]] = [([site], []) for site in sorted(sites)]
    for path, layer in layers.items():
        read = {call.site for call in layer.calls} & sites
        mine = [group for group in groups if read & set(group[0])]
        groups = [group for group in groups if not read & set(group[0])]
        groups.append(([s for group in mine for s in group[0]], [*(p for group in mine for p in group[1]), path]))
    return groups


def _site(student: Student, node: fx.Node) -> str:
    """The activation point that made a layer's input, seen through operations that only move values; or nothing."""
    source = producer(node.args[0])
    return str(source.target) if source.op == "call_module" and source.target in student.acts else ""
