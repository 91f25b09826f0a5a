"""Quantization points of activations and weights, and the layers with a quantized weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zsq.grids import _affine as affine
from zsq.grids._affine import FlatGrid, Grid


class _Point(nn.Module):
    """The common part: a range ``lo``, ``hi`` (NaN if not set) and the flag ``frozen``."""

    kind: Literal["weight", "act"]

    def __init__(self, bits: int, symmetric: bool, size: tuple[int, ...]) -> None:
        super().__init__()
        self.bits, self.symmetric, self.frozen = bits, symmetric, False
        self.lo: Tensor
        self.hi: Tensor
        self.register_buffer("lo", torch.full(size, torch.nan))
        self.register_buffer("hi", torch.full(size, torch.nan))

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """The range that was set; NaN if not set."""
        return self.lo, self.hi

    def set_range(self, lo: Tensor | float, hi: Tensor | float) -> None:
        """Set the range."""
        assert not self.frozen, "a frozen point keeps its range"
        with torch.no_grad():
            self.lo.copy_(torch.as_tensor(lo, dtype=self.lo.dtype).reshape(-1).expand(self.lo.numel()).reshape(self.lo.shape))
            self.hi.copy_(torch.as_tensor(hi, dtype=self.hi.dtype).reshape(-1).expand(self.hi.numel()).reshape(self.hi.shape))
        self._refresh()

    def _refresh(self) -> None:
        """Update cached values after a change of ``lo`` or ``hi``."""

    def _load_from_state_dict(self, *inputs: Any, **options: Any) -> None:
        super()._load_from_state_dict(*inputs, **options)
        self._refresh()

    def extra_repr(self) -> str:
        return f"bits={self.bits}, symmetric={self.symmetric}, frozen={self.frozen}"


class ActPoint(_Point):
    """Fake-quantizes one activation on a per-tensor grid; without a range it returns its input unchanged.

    The range is extended to contain zero, so that zero is exact. While ``observing``, it collects minimum and maximum of its inputs on
    the device, and the current range, if any, stays in use. When observing ends, minimum and maximum become the range; they are kept
    for the next time, until ``set_range`` is called. With ``learn_range`` a tuner moves the range by gradient.
    """

    kind: Literal["weight", "act"] = "act"

    def __init__(self, bits: int, symmetric: bool = False) -> None:
        super().__init__(bits, symmetric, ())
        self._grid: FlatGrid | None = None
        self._observing = False
        self._seen: tuple[Tensor, Tensor] | None = None
        self.log_range: nn.Parameter | None = None

    @property
    def observing(self) -> bool:
        return self._observing

    @observing.setter
    def observing(self, on: bool) -> None:
        if self.frozen:
            return
        ended, self._observing = self._observing and not on, bool(on)
        if ended and (seen := self._seen) is not None:
            self.set_range(*seen)
            self._seen = seen

    @property
    def ranged(self) -> bool:
        """Whether a range is set."""
        return self._grid is not None

    @property
    def grid(self) -> Grid:
        """The current grid; NaN if no range is set."""
        lo, hi = self.lo.detach().float(), self.hi.detach().float()
        if self.symmetric:
            return affine.symmetric(lo, hi, self.bits, signed=bool(lo < 0))
        return affine.asymmetric(lo, hi, self.bits, with_zero=True)

    @property
    def scale(self) -> Tensor:
        return self.grid.scale

    @property
    def zero_point(self) -> Tensor:
        return self.grid.zero_point

    def set_range(self, lo: Tensor | float, hi: Tensor | float) -> None:
        self._seen = None
        super().set_range(lo, hi)

    def freeze(self) -> None:
        """End observing; the range does not change any more."""
        self.observing = False
        self.frozen = True

    def kept_state(self) -> dict[str, Any]:
        """State outside of buffers, for checkpoints. The cached grid is kept because many small changes were applied to it."""
        return {"frozen": self.frozen, "seen": self._seen, "grid": None if self._grid is None else tuple(self._grid)}

    def load_kept_state(self, values: Mapping[str, Any]) -> None:
        """Restore what :meth:`kept_state` returned."""
        grid, seen = values["grid"], values["seen"]
        self.log_range = None  # the tuner that learns the range adds it again
        self.frozen = values["frozen"]
        self._seen = None if seen is None else (seen[0].to(self.lo.device), seen[1].to(self.lo.device))
        self._grid = None if grid is None else FlatGrid(*grid)

    def learn_range(self, on: bool) -> None:
        """Add the parameter ``log_range`` for an optimizer, which ``apply_learned`` applies; or remove it."""
        if not on and self.log_range is not None:
            self._refresh()
        self.log_range = nn.Parameter(torch.zeros_like(self.lo)) if on and self.ranged and not self.frozen else None

    @torch.no_grad()
    def apply_learned(self) -> None:
        """Scale the range by exp(``log_range``) after an optimizer step, and reset ``log_range`` to zero.

        It runs at every step for every point, so it scales the cached numbers; ``learn_range(False)`` computes them again.
        """
        assert self.log_range is not None and self._grid is not None
        factor = math.exp(self.log_range.item())
        self.lo.mul_(factor)
        self.hi.mul_(factor)
        self.log_range.zero_()
        self._grid = self._grid._replace(inverse=self._grid.inverse / factor, scale=self._grid.scale * factor)

    def forward(self, x: Tensor) -> Tensor:
        if self._observing:
            self._observe(x.detach())
        if self._grid is None:
            return x
        return affine.straight_through(x, self._grid) if self.log_range is None else affine.learned(x, self.log_range, self._grid)

    def _observe(self, x: Tensor) -> None:
        lo, hi = torch.aminmax(x)
        if self._seen is not None:
            lo, hi = torch.minimum(self._seen[0], lo), torch.maximum(self._seen[1], hi)
        self._seen = lo, hi

    def _refresh(self) -> None:
        lo, hi = self.lo.item(), self.hi.item()
        self._grid = affine.flatten(self.grid) if lo == lo and hi == hi else None


class WeightPoint(_Point):
    """Fake-quantizes a layer's weight: one grid per slice along ``axis``, or one grid for the whole weight if ``axis`` is None.

    Live until ``set_range``: every forward pass takes minimum and maximum from the current weight. ``freeze`` stores the codes and
    overwrites the weight with their values, so that a frozen layer uses its weight directly.
    """

    kind: Literal["weight", "act"] = "weight"

    def __init__(self, weight: nn.Parameter, bits: int, symmetric: bool, axis: int | None) -> None:
        super().__init__(bits, symmetric, () if axis is None else (weight.shape[axis],))
        self.axis = axis
        self.live = True
        self.observing = False  # a weight point always sees its weight
        self._weight = [weight]  # in a list, because the parameter belongs to the layer
        self._over = tuple(d for d in range(weight.dim()) if d != axis)
        self._wide = tuple(-1 if d == axis else 1 for d in range(weight.dim()))
        self._fixed: tuple[Tensor, Grid] | None = None

    @property
    def ranged(self) -> bool:
        """Whether a range was set, so that it does not follow the weight any more."""
        return not self.live

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        if not self.live:
            return self.lo, self.hi
        lo, hi = self._extremes(self._weight[0].detach())
        return lo.reshape(self.lo.shape), hi.reshape(self.hi.shape)

    @property
    def grid(self) -> Grid:
        """The current grid, of a shape that broadcasts against the weight."""
        return self._fixed[1] if self._fixed else self._grid(self._weight[0].detach())

    @property
    def scale(self) -> Tensor:
        return self.grid.scale.reshape(self.lo.shape)

    @property
    def zero_point(self) -> Tensor:
        return self.grid.zero_point.reshape(self.lo.shape)

    @property
    def codes(self) -> Tensor:
        """Integer codes, int32, in the weight's shape: the frozen ones, else those of the current weight."""
        return self._fixed[0] if self._fixed else affine.encode(self._weight[0].detach().float(), self.grid).int()

    def freeze(self) -> None:
        """Fix the codes, and set the weight to their values."""
        if not self.frozen:
            grid = self.grid
            self.fix(self.codes, grid.scale, grid.zero_point)

    def fix(self, codes: Tensor, scale: Tensor, zero_point: Tensor) -> None:
        """Freeze with given codes and grid, as when a saved student is loaded."""
        weight = self._weight[0]
        wide = self._wide if self.axis is not None else (1,) * weight.dim()
        signed = self.symmetric
        low, high = (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if signed else (0, 2**self.bits - 1)
        grid = Grid(scale.reshape(wide), zero_point.reshape(wide), low, high)
        self._fixed, self.frozen = (codes, grid), True
        with torch.no_grad():
            weight.copy_(affine.decode(codes, grid))

    def kept_state(self) -> dict[str, Any]:
        """Codes and grid after freezing, for checkpoints."""
        return {"fixed": None if self._fixed is None else (self._fixed[0], tuple(self._fixed[1]))}

    def load_kept_state(self, values: Mapping[str, Any]) -> None:
        """Restore what :meth:`kept_state` returned."""
        if (fixed := values["fixed"]) is not None:
            codes, (scale, zero_point, low, high) = fixed
            device = self.lo.device
            self._fixed, self.frozen = (codes.to(device), Grid(scale.to(device), zero_point.to(device), low, high)), True

    def forward(self, weight: Tensor) -> Tensor:
        return weight if self.frozen else affine.straight_through(weight, self._grid(weight.detach()))

    def _extremes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if self.axis is None:
            lo, hi = torch.aminmax(weight)
            return lo, hi
        return weight.amin(self._over, keepdim=True), weight.amax(self._over, keepdim=True)

    def _grid(self, weight: Tensor) -> Grid:
        if self.live:
            lo, hi = self._extremes(weight.float())
        elif self.axis is None:
            lo, hi = self.lo, self.hi
        else:
            lo, hi = self.lo.view(self._wide), self.hi.view(self._wide)
        return affine.symmetric(lo, hi, self.bits) if self.symmetric else affine.asymmetric(lo, hi, self.bits)

    def _refresh(self) -> None:
        self.live = bool(self.lo.isnan().any() or self.hi.isnan().any())

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._fixed:  # codes stay integers and scales float32; only the device changes
            codes, grid = self._fixed
            device = self.lo.device
            self._fixed = codes.to(device), Grid(grid.scale.to(device), grid.zero_point.to(device), grid.low, grid.high)
        return self


class QuantLayer:
    """A layer that uses its weight through ``weight_point``."""

    weight: Any
    weight_point: WeightPoint
    #: The integer computation of a finished student, see ``zsq.placement._integers``; called with the layer and its input.
    integers: Callable[[Any, Tensor], Tensor] | None = None
    _conv_forward: Callable[..., Tensor]

    def point(self, bits: int, symmetric: bool, per_channel: bool) -> None:
        """Attach the weight point."""
        axis = (1 if isinstance(self, nn.ConvTranspose2d) else 0) if per_channel else None
        self.weight_point = WeightPoint(self.weight, bits, symmetric, axis)


class QuantConv1d(QuantLayer, nn.Conv1d):
    """A 1-D convolution with a quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight_point(self.weight), self.bias) if self.integers is None else self.integers(self, x)


class QuantConv2d(QuantLayer, nn.Conv2d):
    """A 2-D convolution with a quantized weight; also grouped, depthwise or dilated."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight_point(self.weight), self.bias) if self.integers is None else self.integers(self, x)


class QuantConv3d(QuantLayer, nn.Conv3d):
    """A 3-D convolution with a quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight_point(self.weight), self.bias) if self.integers is None else self.integers(self, x)


class QuantConvTranspose2d(QuantLayer, nn.ConvTranspose2d):
    """A transposed convolution with a quantized weight; with groups, output channels with the same index in their group share a scale."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        weight = self.weight_point(self.weight)
        return nn.functional.conv_transpose2d(
            x, weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation  # type: ignore[arg-type]
        )  # fmt: skip


class QuantLinear(QuantLayer, nn.Linear):
    """A linear layer with a quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight_point(self.weight), self.bias) if self.integers is None else self.integers(self, x)


#: Quantized layers by the name of the float layer, as in reports and files.
LAYERS: dict[str, type[Any]] = {
    "Conv1d": QuantConv1d,
    "Conv2d": QuantConv2d,
    "Conv3d": QuantConv3d,
    "ConvTranspose2d": QuantConvTranspose2d,
    "Linear": QuantLinear,
}
