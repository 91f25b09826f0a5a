"""The calibrator ``squant-range``: activation ranges in standard deviations, from one forward pass of uniform noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zsq.points import QuantPoint
from zsq.training import act_modules, watching_inputs
from zsq.types import Batch, Beat, Context, Student, Trace
from zsq_squant import SquantRangeOptions

#: Range in standard deviations of the positive activations by bits: the authors' settings.
_FACTORS = ((4, 12.0), (6, 14.0), (8, 25.0))
#: The range of signed activations is divided by this.
_SIGNED = 1.25
#: Below this many bits, a range is at most the largest observed magnitude.
_FINE = 6


class SquantRange:
    """Sets ranges to ``factor * std`` of the positive activations; points earlier in the network already fake-quantize.

    Signed activations get a symmetric range, narrower by 1.25. Below 6 bits a range is at most the largest observed magnitude;
    this bound is applied after the division by 1.25.

    Follows the authors' code, not the paper, which describes BatchNorm statistics: one forward pass of noise, uniform on [0, 1),
    used directly as normalised network input. Deviations: 64 images instead of 256; the points of the quantizer's scheme, not
    all layer inputs; each point's own bits, also at the last layer; between and beyond 4, 6 and 8 bits the factor is linear; an
    activation that is always zero gets an empty range and a message.
    """

    def __init__(self, options: SquantRangeOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Set every range in one float32 forward pass; does not use the stream. Without activation points, does nothing."""
        if not student.acts:
            return
        shape = (self.options.images, *self.ctx.teacher.inputs.shape)
        noise = torch.rand(shape, generator=self.ctx.rng, device=self.ctx.device)
        if noise.dim() == 4:
            noise = noise.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), watching_inputs(act_modules(student), self._set):
            student.module.eval()(noise)
        yield Beat(1, 1)

    def _set(self, path: str, point: QuantPoint, x: Tensor) -> None:
        """Set a point's range just before it fake-quantizes ``x``."""
        if point.frozen:
            return
        lowest, highest = (float(end) for end in torch.aminmax(x))
        alpha = self._alpha(x, point.bits, signed=lowest < 0)
        if point.bits < _FINE or alpha == 0:
            alpha = min(alpha or float("inf"), max(highest, -lowest))
        if alpha == 0:
            self.ctx.log(f"'{path}' is always zero on noise, so its range is empty")
        point.set_range(-alpha if lowest < 0 else 0.0, alpha)

    def _alpha(self, x: Tensor, bits: int, signed: bool) -> float:
        """factor * unbiased std; 0 if there are fewer than two positive values."""
        positive = x[x > 0].float()
        if len(positive) < 2:
            return 0.0
        return float(positive.std()) * (self.options.factor or factor(bits)) / (_SIGNED if signed else 1.0)


def factor(bits: int) -> float:
    """The authors' factor for 4, 6 and 8 bits; linear between and beyond them."""
    (x0, y0), (x1, y1) = _FACTORS[:2] if bits <= _FACTORS[1][0] else _FACTORS[1:]
    return y0 + (y1 - y0) * (bits - x0) / (x1 - x0)
