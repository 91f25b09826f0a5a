"""Holds the weights of all layers in one vector and counts how many integer codes a step would change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zsq.grids import Grid, WeightPoint
from zsq_ait.grid_group import GridGroup, NearThreshold

#: A weight and the point that fake-quantizes it.
Layer = tuple[torch.nn.Parameter, WeightPoint]
#: Steps are prepared up to this many times the estimated length that changes the wanted share.
_AMPLE = 24.0
#: If a longer step is requested, steps are prepared up to this many times its length.
_FURTHER = 4.0


class _Kind(NamedTuple):
    """The kind of a layer's grids, equal in all layers of a group, and the length of a row. A row is a set of weights with one grid."""

    bits: int
    symmetric: bool
    live: bool
    length: int


class Codes:
    """Integer codes of ``layers``, for all of them at once.

    The weights are the vector ``at``, and their codes ``current``; a step moves the weights to ``at - length * direction``, with one
    length per layer. The codes equal those of the layer's point: a live point computes its range from the moved weight, and a point
    with a set range keeps its grid.

    On a CPU, changes are counted only among the weights near a rounding threshold, if those are few, else among all. The counts are
    the same.

    Args:
        layers: At least one; the weight's values are copied. ``order`` has their order in every result.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        kinds = [_kind(*layer) for layer in layers]
        self.order = sorted(range(len(layers)), key=lambda i: kinds[i])
        self._layers = [layers[i] for i in self.order]
        device = layers[0][0].device
        self.free_looks = device.type == "cpu"
        self.numel = torch.tensor([weight.numel() for weight, _ in self._layers], dtype=torch.float64, device=device)
        self.at, self.direction, self.current = torch.zeros(3, int(self.numel.sum()), device=device)
        self._groups = list(self._related([kinds[i] for i in self.order]))
        self._near_thresholds: list[NearThreshold | None] = [None for _ in self._groups]
        self._reach = np.zeros(len(layers))
        self._found = torch.zeros_like(self.numel)
        torch._foreach_copy_(self.parts(self.at), [weight.detach() for weight, _ in self._layers])
        self._encode()

    def parts(self, vector: Tensor) -> list[Tensor]:
        """The layers' parts of a vector like ``at``, as views in the shape of their weights.

        Each row (the weights with one grid) is contiguous, in the memory order of the weight.
        """
        parts, start = [], 0
        for weight, point in self._layers:
            order = sorted(range(weight.dim()), key=lambda i: (i != (point.axis or 0), -weight.stride()[i]))
            part = vector[start : start + weight.numel()].view([weight.shape[i] for i in order])
            parts.append(part.permute([order.index(i) for i in range(weight.dim())]))
            start += weight.numel()
        return parts

    def aim(self, share: float, shortest: Any, longest: float) -> None:
        """Prepare to count along a new ``direction``.

        Args:
            share: Share of codes to change. Used to estimate how long steps will be; it is not a limit.
            shortest: Length of the first step, (layers,), as :meth:`array` returns it.
            longest: Length of the longest step.
        """
        if self.free_looks:
            speed = torch.cat([group.aim() for _, group in self._groups])
            wanted = (2 / self.numel).clamp_min_(share).mul_(_AMPLE).div_(speed)
            self._reach = np.maximum(wanted.clamp_max_(longest).numpy(), shortest)
            self._look()

    def flips(self, lengths: Any, of: Any = None) -> Any:
        """How many codes of each layer change in a step of ``lengths``; (layers,) like ``lengths``, both as :meth:`array` returns them.

        On a CPU, layers outside of the mask ``of`` may keep their last count.
        """
        if self.free_looks and (beyond := lengths > self._reach).any():
            self._reach = np.where(beyond, _FURTHER * lengths, self._reach)
            self._look()
        for (layers, group), near in zip(self._groups, self._near_thresholds, strict=True):
            if self.free_looks and near is not None:
                self._found.numpy()[layers] = near.flips(lengths[layers].astype(np.float32))
            else:
                wanted = of[layers].tolist() if of is not None and self.free_looks else None
                self._found[layers] = group.flips(torch.as_tensor(lengths[layers]).float(), wanted)
        return self.array(self._found.clone())

    def array(self, x: Tensor) -> Any:
        """A tensor with one number per layer; on a CPU as a NumPy array, which is faster to compute with."""
        return x.numpy() if self.free_looks else x

    def over(self, mask: Any) -> bool:
        """Whether ``mask`` is all False; on a GPU always False, to avoid synchronization."""
        return self.free_looks and not mask.any()

    def move(self, lengths: Tensor) -> None:
        """Make the step and update the codes; ``lengths`` is (layers,)."""
        for layers, group in self._groups:
            group.move(lengths[layers].float())
        self._encode()

    def _encode(self) -> None:
        for _, group in self._groups:
            group.encode(self.free_looks)

    def _look(self) -> None:
        reach = torch.from_numpy(self._reach).float()
        self._near_thresholds = [group.near_threshold(reach[layers]) for layers, group in self._groups]

    def _related(self, kinds: Sequence[_Kind]) -> Iterator[tuple[slice, GridGroup]]:
        layer = start = 0
        for (bits, symmetric, live), relatives in groupby(kinds, lambda kind: kind[:3]):
            lengths = [kind.length for kind in relatives]
            layers = slice(layer, layer + len(lengths))
            sizes = [weight.numel() for weight, _ in self._layers[layers]]
            end = start + sum(sizes)
            fixed = None if live else _joined([point.grid for _, point in self._layers[layers]])
            counts = [size // length for size, length in zip(sizes, lengths, strict=True)]
            parts = (v[start:end] for v in (self.at, self.direction, self.current))
            yield layers, GridGroup(bits, symmetric, fixed, counts, lengths, *parts)
            layer, start = layers.stop, end


def _kind(weight: Tensor, point: WeightPoint) -> _Kind:
    rows = 1 if point.axis is None else weight.shape[point.axis]
    return _Kind(point.bits, point.symmetric, point.live, weight.numel() // rows)


def _joined(grids: Sequence[Grid]) -> Grid:
    """One grid for all rows of several layers, (rows, 1)."""
    scale, zero_point = (torch.cat([getattr(g, name).reshape(-1, 1) for g in grids]) for name in ("scale", "zero_point"))
    return Grid(scale, zero_point, grids[0].low, grids[0].high)
