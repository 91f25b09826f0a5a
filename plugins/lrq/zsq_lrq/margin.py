"""Adversarial margin add: the distance to the class centre as stage 1 measures it, with a margin on the angle."""

from __future__ import annotations

import math

from torch import Tensor

#: Cosines are kept so far from -1 and 1, where the slope of the sine is infinite.
EDGE = 1e-6


def margin_distance(cosine: Tensor, margin: float, sign: int) -> Tensor:
    """1 - cos(theta + sign * margin) of the angle theta with that cosine, in radians; finite gradients everywhere.

    Expanded, as the authors do, into cos(theta) cos(margin) - sign sin(theta) sin(margin) with sin(theta) = sqrt(1 - cos^2).
    Nothing else is done to angles that leave [0, pi] (no easy-margin branch), and there is no scale.
    """
    cosine = cosine.clamp(-1 + EDGE, 1 - EDGE)
    sine = (1 - cosine.square()).sqrt()
    return 1 - (cosine * math.cos(margin) - sign * math.sin(margin) * sine)
