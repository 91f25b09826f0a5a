"""Quantization points as protocols, so that calibrators of one plugin work with quantizers of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zsq.grids import Grid

__all__ = ["Gridded", "KeepsState", "LearnsRange", "QuantPoint", "Roundable"]


@runtime_checkable
class QuantPoint(Protocol):
    """A place in a student that fake-quantizes one weight or one activation. Calibrators of any plugin work on it.

    ``scale`` and ``zero_point`` are tensors with one element, or one per output channel. Codes are
    ``clamp(round(x / scale) + zero_point, low, high)``, values ``(code - zero_point) * scale``.

    ``ranged``: a range was set. Without one, an activation passes unchanged, and the range of a weight follows the weight (live).
    ``freeze()`` ends all changes; then ``frozen`` is True. Optional parts: :class:`LearnsRange`,
    :class:`Gridded`, :class:`Roundable`, :class:`KeepsState`.
    """

    kind: Literal["weight", "act"]
    bits: int
    observing: bool
    frozen: bool

    @property
    def ranged(self) -> bool: ...
    @property
    def range(self) -> tuple[Tensor, Tensor]: ...
    @property
    def scale(self) -> Tensor: ...
    @property
    def zero_point(self) -> Tensor: ...
    def set_range(self, lo: Tensor | float, hi: Tensor | float) -> None: ...
    def freeze(self) -> None: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


@runtime_checkable
class KeepsState(Protocol):
    """A point with state beyond parameters and buffers: tensors and plain values for checkpoints."""

    def kept_state(self) -> Mapping[str, Any]: ...
    def load_kept_state(self, values: Mapping[str, Any]) -> None: ...


@runtime_checkable
class LearnsRange(Protocol):
    """An activation point with a learned range.

    ``learn_range(True)`` adds the parameter ``log_range`` for an optimizer (None if the point has no range or is frozen).
    ``apply_learned()`` after each step scales the range by it and resets it to zero. ``learn_range(False)`` removes it.
    """

    log_range: nn.Parameter | None

    def learn_range(self, on: bool) -> None: ...
    def apply_learned(self) -> None: ...


@runtime_checkable
class Gridded(Protocol):
    """A point with its current ``grid``: one element for an activation; for a weight, of a shape that broadcasts against it."""

    @property
    def grid(self) -> Grid: ...


@runtime_checkable
class Roundable(Gridded, Protocol):
    """A weight point with codes that a method may choose, for example by learned rounding.

    ``codes`` are the int32 codes of the weight. ``fix(codes, scale, zero_point)`` freezes the point at given codes and overwrites the
    weight with their values.
    """

    @property
    def codes(self) -> Tensor: ...
    def fix(self, codes: Tensor, scale: Tensor, zero_point: Tensor) -> None: ...
