"""Computes layers of a frozen student as integer kernels do, so that a runtime gets the same codes.

A layer between two points sums products of integers and adds an integer bias: float32 holds every such sum below 2**24, so the
order of additions does not matter. With ``factor = float32(float32(s_in * s_weight) / s_out)`` the code of the output is
``round(sum * factor)``, rounded half to even, plus the zero point: ONNX Runtime's definition. The layer returns that code times
``s_out``; a ReLU and the point that follow do not change it. Without this, about one code in a hundred thousand is rounded the
other way, and a deep network then gives a different answer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from zsq.placement._biases import ROOMY, layers_on_codes


class Integers(NamedTuple):
    """The integers and factors that a layer computes with.

    Args:
        weight: Codes, in the weight's shape.
        bias: Integers (channels).
        inverse: ``1 / s_in``.
        factor: Multiplies every sum (channels).
        step: ``s_out``; None if the output stays in float.
    """

    weight: Tensor
    bias: Tensor
    inverse: float
    factor: Tensor
    step: float | None

    def __call__(self, layer: Any, x: Tensor) -> Tensor:
        """The layer's output for values ``x`` on its input's grid."""
        weight, bias, factor = (tensor.to(x.device) for tensor in (self.weight, self.bias, self.factor))
        codes = x.mul(self.inverse).round_()
        if isinstance(layer, nn.Linear):
            result = nn.functional.linear(codes, weight, bias).mul_(factor)
        else:
            wide = (-1, *(1,) * (weight.dim() - 2))
            result = layer._conv_forward(codes, weight, None).add_(bias.view(wide)).mul_(factor.view(wide))
        return result if self.step is None else result.round_().mul_(self.step)


@torch.no_grad()
def use_integers(module: fx.GraphModule) -> None:
    """Let every layer that an integer kernel can run compute in integers. All points must be frozen and biases rounded.

    Layers with an output of at most ``ROOMY`` bits do not change: their exporter adjusts rounding edges, not codes. A BatchNorm is
    folded into the layer before it and then returns its input.
    """
    for found in layers_on_codes(module):
        floats = found.after is None and isinstance(found.layer, nn.Linear)
        if found.layer.integers is not None or not (floats or (found.after is not None and found.after.bits > ROOMY)):
            continue
        scale, bias, sign = found.terms()
        act = found.source.scale.float()
        factor = act * scale.float()
        if found.after is not None:
            factor = factor / found.after.scale
        codes = found.layer.weight_point.codes
        shape = (-1, *(1,) * (codes.dim() - 1))
        weight = torch.empty_like(found.layer.weight).copy_(codes * sign.view(shape))
        out = None if found.after is None else found.after.scale.item()
        inverse = act.reciprocal().item()
        found.layer.integers = Integers(weight, bias.round().float(), inverse, factor, out)
        if found.norm is not None:
            found.norm.register_forward_hook(_pass_on)


def _pass_on(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    return inputs[0]
