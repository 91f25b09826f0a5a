"""The weights of all layers in one vector, and how many of their integer codes a step would change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor

from zsq.builtin.uniform import affine
from zsq.builtin.uniform.affine import Grid
from zsq.builtin.uniform.points import WeightPoint

#: A weight and the point that puts it on its grid.
Layer = tuple[torch.nn.Parameter, WeightPoint]
ALL = slice(None)


@dataclass(frozen=True)
class _Kind:
    """What layers must share to be counted in one go: the length of a row, i.e. of what has one grid, and the kind of grid."""

    length: int
    bits: int
    symmetric: bool
    live: bool


@dataclass
class _Group:
    """The rows of all layers of one kind, layer after layer. Tensors are (rows, length) parts of the vectors of :class:`Codes`."""

    kind: _Kind
    layers: range
    ends: list[int]
    rows: slice
    at: Tensor
    direction: Tensor
    codes: Tensor
    moved: Tensor
    fixed: Grid | None

    def encode_(self, x: Tensor, part: slice = ALL) -> Tensor:
        """Replace values (rows of ``part``, length) by their codes: on the grid of their own extremes, or on the one that was set."""
        grid = self._grid(x) if self.fixed is None else self.fixed
        scale, zero_point = (grid.scale, grid.zero_point) if self.fixed is None else (grid.scale[part], grid.zero_point[part])
        return x.mul_(scale.reciprocal()).round_().add_(zero_point).clamp_(grid.low, grid.high)

    def span(self, wanted: list[bool] | None) -> slice | None:
        """The rows from the first to the last layer that is wanted, None where none is."""
        if wanted is None:
            return ALL
        layers = [i for i, layer in enumerate(self.layers) if wanted[layer]]
        return slice(self.ends[layers[0] - 1] if layers[0] else 0, self.ends[layers[-1]]) if layers else None

    def _grid(self, x: Tensor) -> Grid:
        lo, hi = x.amin(1, keepdim=True), x.amax(1, keepdim=True)  # aminmax along a dimension is ten times slower
        return affine.symmetric(lo, hi, self.kind.bits) if self.kind.symmetric else affine.asymmetric(lo, hi, self.kind.bits)


class Codes:
    """Integer codes of ``layers``, for all of them at once: those of equal row length and grid are one matrix.

    The weights are ``at``, a vector, and their codes ``current``; a step moves them to ``at - length * direction``, with a length
    for each layer. Codes are those that the layer's point would give: a live point takes its range from the weight that it is
    given, so ranges follow the step; a point whose range was set keeps its grid.

    Args:
        layers: At least one; the weight's values are copied. ``order`` says which of them comes first in every result.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        kinds = [_kind(*layer) for layer in layers]
        self.order = sorted(range(len(layers)), key=lambda i: (kinds[i].length, kinds[i].bits, kinds[i].symmetric, kinds[i].live))
        layers, kinds = [layers[i] for i in self.order], [kinds[i] for i in self.order]
        counts = [weight.numel() // kind.length for (weight, _), kind in zip(layers, kinds, strict=True)]
        device = layers[0][0].device
        self.numel = torch.tensor([weight.numel() for weight, _ in layers], dtype=torch.float64, device=device)
        self.at, self.direction, self.current, self._moved = torch.zeros(4, int(self.numel.sum()), device=device)
        self._layer = torch.repeat_interleave(torch.arange(len(layers)), torch.tensor(counts)).to(device)
        self._flips = torch.zeros(len(self._layer), device=device)
        self._groups = list(self._grouped(layers, kinds, counts))
        self._layers = layers
        self.free_looks = device.type == "cpu"
        torch._foreach_copy_(self.parts(self.at), [weight.detach() for weight, _ in layers])
        self._encode()

    def parts(self, vector: Tensor) -> list[Tensor]:
        """The layers' parts of a vector like ``at``, as views in the shape of their weights."""
        parts, start = [], 0
        for weight, point in self._layers:
            axis, part = point.axis or 0, vector[start : start + weight.numel()]  # in memory, the dimension of the grids comes first
            parts.append(part.view(weight.movedim(axis, 0).shape).movedim(0, axis))
            start += weight.numel()
        return parts

    def flips(self, lengths: Tensor, of: Tensor | None = None) -> Tensor:
        """How many codes of each layer change in a step of ``lengths``; (layers,) like ``lengths``, both float64.

        Where looking at a tensor waits for no device, layers that are not in the mask ``of`` may keep their last answer.
        """
        rows = lengths.float()[self._layer, None]
        wanted = of.tolist() if of is not None and self.free_looks else None
        for group in self._groups:
            if (part := group.span(wanted)) is not None:
                moved = torch.mul(group.direction[part], rows[group.rows][part], out=group.moved[part])
                torch.sub(group.at[part], moved, out=moved)
                group.encode_(moved, part).ne_(group.codes[part])
                torch.sum(moved, 1, out=self._flips[group.rows][part])
        return torch.zeros_like(self.numel).index_add_(0, self._layer, self._flips.double())

    def over(self, mask: Tensor) -> bool:
        """Whether nothing is left in ``mask``; False where looking would have to wait for a device."""
        return self.free_looks and not mask.any()

    def move(self, lengths: Tensor) -> None:
        """Make the step."""
        rows = lengths.float()[self._layer, None]
        for group in self._groups:
            group.at.sub_(torch.mul(group.direction, rows[group.rows], out=group.moved))
        self._encode()

    def _encode(self) -> None:
        self.current.copy_(self.at)
        for group in self._groups:
            group.encode_(group.codes)

    def _grouped(self, layers: Sequence[Layer], kinds: Sequence[_Kind], counts: Sequence[int]) -> Iterator[_Group]:
        layer = row = start = 0
        for kind, members in groupby(kinds):
            size = len(list(members))
            ends = list(accumulate(counts[layer : layer + size]))
            rows = ends[-1]
            vectors = (self.at, self.direction, self.current, self._moved)
            at, direction, codes, moved = (v[start : start + rows * kind.length].view(rows, kind.length) for v in vectors)
            fixed = None if kind.live else _joined([point.grid for _, point in layers[layer : layer + size]])
            yield _Group(kind, range(layer, layer + size), ends, slice(row, row + rows), at, direction, codes, moved, fixed)
            layer, row, start = layer + size, row + rows, start + rows * kind.length


def _kind(weight: Tensor, point: WeightPoint) -> _Kind:
    rows = 1 if point.axis is None else weight.shape[point.axis]
    return _Kind(weight.numel() // rows, point.bits, point.symmetric, point.live)


def _joined(grids: Sequence[Grid]) -> Grid:
    """One grid for all rows of several layers, (rows, 1)."""
    scale, zero_point = (torch.cat([getattr(g, name).reshape(-1, 1) for g in grids]) for name in ("scale", "zero_point"))
    return Grid(scale, zero_point, grids[0].low, grids[0].high)
