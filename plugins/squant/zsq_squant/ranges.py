"""The calibrator ``squant-range``: activation ranges in standard deviations, from one forward of uniform noise."""

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
#: Below this number of bits a range ends at the largest activation seen.
_FINE = 6


class SquantRange:
    """``factor * std`` of the positive activations, each site with those before it on the grids they were just given.

    Signed sites get a symmetric range, narrower by 1.25. Below 6 bits no range goes beyond the largest magnitude seen; that
    bound comes last, so that a signed one is not narrowed below it.

    As the authors' code, not their text, which speaks of BatchNorm statistics: one forward of noise, uniform on [0, 1), given
    to the network as it is, that is, in its normalised input space. What differs: 64 images instead of 256; sites are those
    of the quantizer's scheme, not all layer inputs; their bits count, also at the last layer; between and beyond 4, 6 and 8
    bits the factor is linear; a site that stays at zero gets an empty range and a message.
    """

    def __init__(self, options: SquantRangeOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Set every range in one float32 forward, and beat; reads nothing from the stream. Does nothing without activation points."""
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
        """Give a point its range just before it puts ``x`` on its grid."""
        if point.frozen:
            return
        lowest, highest = (float(end) for end in torch.aminmax(x))
        alpha = self._alpha(x, point.bits, signed=lowest < 0)
        if point.bits < _FINE or alpha == 0:
            alpha = min(alpha or float("inf"), max(highest, -lowest))
        if alpha == 0:
            self.ctx.log(f"'{path}' is always zero on noise: its range is empty")
        point.set_range(-alpha if lowest < 0 else 0.0, alpha)

    def _alpha(self, x: Tensor, bits: int, signed: bool) -> float:
        """factor * std, the unbiased one; 0 where fewer than two positive values give it none."""
        positive = x[x > 0].float()
        if len(positive) < 2:
            return 0.0
        return float(positive.std()) * (self.options.factor or factor(bits)) / (_SIGNED if signed else 1.0)


def factor(bits: int) -> float:
    """The authors' factor for 4, 6 and 8 bits; on the line through the two nearest of them for others."""
    (x0, y0), (x1, y1) = _FACTORS[:2] if bits <= _FACTORS[1][0] else _FACTORS[1:]
    return y0 + (y1 - y0) * (bits - x0) / (x1 - x0)
