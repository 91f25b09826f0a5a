"""Stage 1: IntraQ's images with adversarial margin add (AMA), a margin on the angle to the class centre."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Any

from torch import Tensor
from zsq_intraq.distill import IntraqDistiller
from zsq_intraq.synth import Intraq

from zsq_lrq import AmaOptions

#: Cosines are clamped this far from -1 and 1, where the slope of the sine is infinite.
EDGE = 1e-6


def margin_distance(cosine: Tensor, margin: float, sign: int) -> Tensor:
    """1 - cos(theta + sign * margin) where ``cosine`` = cos(theta), ``margin`` in radians; gradients are finite everywhere.

    Expanded, as the authors do, into cos(theta) cos(margin) - sign sin(theta) sin(margin) with sin(theta) = sqrt(1 - cos^2).
    Angles outside of [0, pi] get no special treatment (no easy-margin branch), and there is no scale.
    """
    cosine = cosine.clamp(-1 + EDGE, 1 - EDGE)
    sine = (1 - cosine.square()).sqrt()
    return 1 - (cosine * math.cos(margin) - sign * math.sin(margin) * sine)


class AmaDistiller(IntraqDistiller):
    """IntraQ's objective with :func:`margin_distance` as the distance to the class centre."""

    options: AmaOptions

    def distance(self, cosine: Tensor) -> Tensor:
        return margin_distance(cosine, self.options.margin, self.options.ama_sign)


class AmaPool(Intraq):
    """The pool of stage 1."""

    name, distribution = "lrq", "zsq-lrq"
    distiller_class = AmaDistiller
    options: AmaOptions

    def key(self, span: tuple[int, int]) -> dict[str, Any]:
        return {**super().key(span), "intraq": version("zsq-intraq")}
