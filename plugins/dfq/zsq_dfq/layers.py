"""Reads and changes convolutions, linear and BatchNorm layers by channel: ranges, scales and shifts, for any groups and weight layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def outputs(layer: Any) -> int:
    """Number of output channels."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def inputs(layer: Any) -> int:
    """Number of input channels."""
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def channelwise(layer: Any) -> bool:
    """Whether output channel i reads input channel i and nothing else (depthwise, multiplier 1)."""
    return getattr(layer, "groups", 1) == inputs(layer) == outputs(layer)


def by_group(layer: Any, weight: Tensor) -> Tensor:
    """A weight as (groups, outputs of a group, inputs of a group, kernel positions)."""
    groups = getattr(layer, "groups", 1)
    flat = weight.reshape(weight.shape[0], weight.shape[1], -1)
    if isinstance(layer, nn.ConvTranspose2d):
        return flat.reshape(groups, -1, *flat.shape[1:]).transpose(1, 2)
    return flat.reshape(groups, -1, *flat.shape[1:])


def output_range(layer: Any) -> Tensor:
    """Largest absolute weight of every output channel."""
    return by_group(layer, layer.weight.detach()).abs().amax((2, 3)).flatten()


def input_range(layer: Any) -> Tensor:
    """Largest absolute weight of every input channel."""
    return by_group(layer, layer.weight.detach()).abs().amax((1, 3)).flatten()


def respond(layer: Any, weight: Tensor, means: Tensor) -> Tensor:
    """Output (outputs,) of ``weight`` for an input ``means`` (inputs,) that is constant in every channel; without bias and borders."""
    grouped = by_group(layer, weight)
    return torch.einsum("goik,gi->go", grouped, means.to(grouped.dtype).view(grouped.shape[0], -1)).flatten()


@torch.no_grad()
def scale_outputs(layer: Any, factor: Tensor) -> None:
    """Multiply every output channel, bias included."""
    factor = factor.to(layer.weight)
    by_output = factor if not isinstance(layer, nn.ConvTranspose2d) else factor.view(layer.groups, -1).repeat_interleave(
        inputs(layer) // layer.groups, 0
    )  # fmt: skip
    layer.weight.mul_(_wide(by_output, layer.weight))
    if layer.bias is not None:
        layer.bias.mul_(factor)


@torch.no_grad()
def scale_inputs(layer: Any, factor: Tensor) -> None:
    """Multiply the weights of every input channel."""
    factor, groups = factor.to(layer.weight), getattr(layer, "groups", 1)
    if isinstance(layer, nn.ConvTranspose2d):
        layer.weight.mul_(_wide(factor, layer.weight))
    else:
        layer.weight.mul_(_wide(factor.view(groups, -1).repeat_interleave(outputs(layer) // groups, 0), layer.weight))


def _wide(factor: Tensor, weight: Tensor) -> Tensor:
    return factor.reshape(*factor.shape, *(1,) * (weight.dim() - factor.dim()))


@torch.no_grad()
def lower_output(layer: Any, norm: Any, amount: Tensor) -> None:
    """Subtract ``amount`` (outputs,) from the output of a layer and of the BatchNorm right after it (or None).

    With BatchNorm, the running mean changes, so that it stays the mean of its input. Without, the bias changes; it is added if
    there is none.
    """
    if norm is not None:
        norm.running_mean.add_(amount.to(norm.running_mean))
        return
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(outputs(layer)))
    layer.bias.sub_(amount.to(layer.bias))


@torch.no_grad()
def fold_scale(layer: Any, norm: Any) -> None:
    """Move the scale of a BatchNorm into the layer before it; together they compute the same.

    Afterwards BatchNorm has slope 1: it computes ``x - running_mean + bias``. Its statistics stay those of its input, and
    ``bias`` and ``sqrt(running_var)`` are mean and standard deviation of its output.
    """
    if norm.weight is None:
        norm.affine = True
        norm.weight = nn.Parameter(torch.ones_like(norm.running_mean))
        norm.bias = nn.Parameter(torch.zeros_like(norm.running_mean))
    slope = slope_of(norm)
    scale_outputs(layer, slope)
    norm.running_mean.copy_(norm.running_mean.double() * slope)
    norm.running_var.copy_(norm.running_var.double() * slope.square())
    _set_slope(norm, torch.ones_like(slope))


@torch.no_grad()
def scale_norm(norm: _BatchNorm, factor: Tensor) -> None:
    """Adapt BatchNorm to an input that is ``factor`` (> 0) times as large; its output is then ``factor`` times as large too."""
    slope, factor = slope_of(norm), factor.double()
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(norm.running_mean.double() * factor)
    norm.running_var.copy_(norm.running_var.double() * factor.square())
    if norm.affine:
        norm.bias.copy_(norm.bias.double() * factor)
        _set_slope(norm, slope)


def slope_of(norm: Any) -> Tensor:
    """gamma / sqrt(var + eps), signed, float64."""
    gamma = 1.0 if norm.weight is None else norm.weight.detach().double()
    slope: Tensor = gamma / (norm.running_var.double() + norm.eps).sqrt()
    return slope


def _set_slope(norm: Any, slope: Tensor) -> None:
    norm.weight.copy_(slope * (norm.running_var.double() + norm.eps).sqrt())
