"""Convolutions, linear layers and BatchNorm as ONNX nodes.

A quantized weight is a constant of codes behind a ``DequantizeLinear``. A BatchNorm that follows changes only the scales and the
bias: ``scale * gamma / sqrt(var + eps)`` per output channel, with codes mirrored where gamma is negative; no code is rounded again.

The bias of a layer that is to run in integers has to be an integer with the scale ``s_act * s_weight`` (a runtime that finds another
scale computes in float). What that rounding changes is kept small, see ``zsq_onnx.bias``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from torch import fx, nn

from zsq.errors import ZsqError
from zsq.grids import WeightPoint
from zsq_onnx.bias import Weight, with_integer_bias
from zsq_onnx.emitter import Codes, Emitter


def follower(e: Emitter, node: fx.Node, called: Any) -> fx.Node | None:
    """The only user of a quantized layer's output if that is a BatchNorm."""
    if not isinstance(getattr(called, "weight_point", None), WeightPoint) or isinstance(called, nn.ConvTranspose2d) or len(node.users) != 1:
        return None
    user = next(iter(node.users))
    channels_second = not isinstance(called, nn.Linear) or len(e.shape(node)) == 2
    norm = e.module.get_submodule(str(user.target)) if user.op == "call_module" else None
    return user if isinstance(norm, nn.modules.batchnorm._BatchNorm) and channels_second and norm.running_var is not None else None


def layer(e: Emitter, node: fx.Node, called: Any, norm_node: fx.Node | None) -> str:
    """One layer, with the BatchNorm ``norm_node`` folded in; the name of its output."""
    if not isinstance(called, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)):
        hint = "use --quant uniform, or another --export"
        raise ZsqError(f"a {type(called).__name__} has no translation to ONNX", f"layer '{node.target}'", hint)
    name, source = e.path(node), node.all_input_nodes[0]
    bias = None if called.bias is None else _numbers(called.bias)
    codes: Codes | None = e.codes.get(source)
    point = getattr(called, "weight_point", None)
    if not isinstance(point, WeightPoint):
        weight = e.writer.constant(_kernel(called, _numbers(called.weight)), name=f"{name}.weight")
        return _apply(e, node, called, weight, None if bias is None else e.writer.constant(bias, name=f"{name}.bias"))
    if point.bits > 8:
        hint = "export with at most 8 bits: int8 is what integer kernels take"
        raise ZsqError(f"weights of {point.bits} bits have no integer kernel", f"layer '{name}'", hint)
    found = _weight(point, called)
    if norm_node is not None:
        found, bias = _fold(found, bias, e.module.get_submodule(str(norm_node.target)), point)
    after = e.point_after(norm_node or node)
    runs = codes is not None and point.symmetric and not isinstance(called, nn.ConvTranspose2d)
    if runs and bias is not None and (after is not None or isinstance(called, nn.Linear)):
        assert codes is not None
        found, numbers, step = with_integer_bias(found, bias, codes, after)
        return _apply(e, node, called, _dequantized(e, name, called, found), _integer_bias(e, name, numbers, step))
    if runs and after is None and e.sums and not isinstance(called, nn.Linear):
        assert codes is not None
        return _summed(e, node, called, found, bias, codes)
    weight = _dequantized(e, name, called, found)
    if codes is not None and bias is not None and isinstance(called, nn.ConvTranspose2d):  # ONNX Runtime rounds the bias of such a layer
        wide = e.writer.constant(bias.reshape(-1, 1, 1), name=f"{name}.bias")
        return str(e.writer.node("Add", [_apply(e, node, called, weight, None), wide], f"{name}.sum"))
    return _apply(e, node, called, weight, None if bias is None else e.writer.constant(bias, name=f"{name}.bias"))


def norm(e: Emitter, node: fx.Node, called: Any) -> str:
    """A BatchNorm that is not folded into a layer."""
    ones = np.ones(called.num_features)
    values = [
        _numbers(called.weight) if called.affine else ones,
        _numbers(called.bias) if called.affine else 0 * ones,
        _numbers(called.running_mean),
        _numbers(called.running_var),
    ]
    name = e.path(node)
    constants = [e.writer.constant(v, name=f"{name}.{k}") for k, v in zip(("weight", "bias", "mean", "var"), values, strict=True)]
    return e.writer.node("BatchNormalization", [e.value(node.args[0]), *constants], name, epsilon=called.eps)


def _weight(point: WeightPoint, called: Any) -> Weight:
    axis = _axis(called)
    channels = called.weight.shape[axis]
    codes = point.codes.detach().cpu().numpy()
    scale, zero = (t.detach().cpu().numpy().reshape(-1) for t in (point.scale, point.zero_point))
    return Weight(codes.astype(np.int64), np.resize(scale, channels).astype(np.float64), np.resize(zero, channels).astype(np.int64))


def _fold(weight: Weight, bias: Any, norm: Any, point: WeightPoint) -> tuple[Weight, Any]:
    """Weight and bias of a layer and the BatchNorm behind it."""
    spread = np.sqrt(_numbers(norm.running_var) + norm.eps)
    factor = (_numbers(norm.weight) if norm.affine else np.ones_like(spread)) / spread
    shift = (_numbers(norm.bias) if norm.affine else 0.0) + ((0.0 if bias is None else bias) - _numbers(norm.running_mean)) * factor
    codes, scale, zero = (array.copy() for array in weight)
    top = 0 if point.symmetric else 2**point.bits - 1  # a code and its mirror image add up to this
    for channel in np.flatnonzero(factor < 0):
        mirrored = top - codes[channel]
        if point.symmetric and mirrored.max() > 127:
            continue  # -128 has no mirror image in int8: the scale takes the sign
        codes[channel], zero[channel] = mirrored, top - zero[channel]
        factor[channel] = -factor[channel]
    dead = factor == 0  # such a channel is its bias, whatever the scale
    codes[dead], zero[dead], factor[dead] = 0, 0, 1.0
    return Weight(codes, scale * factor, zero), shift


def _integer_bias(e: Emitter, name: str, numbers: Any, step: Any) -> str:
    inputs = [e.writer.constant(numbers, np.int32, f"{name}.bias"), e.writer.constant(step)]
    inputs.append(e.writer.constant(np.zeros_like(numbers), np.int32))
    return e.writer.node("DequantizeLinear", inputs, axis=0)


def _dequantized(e: Emitter, name: str, called: Any, weight: Weight) -> str:
    """The weight's values. Unsigned codes are shifted into int8; zero points that int8 cannot hold become an offset in float."""
    codes, zero, axis = weight.codes, weight.zero_point, _axis(called)
    if codes.max(initial=0) > 127:
        codes, zero = codes - 128, zero - 128
    offset = None
    if zero.min() < -128 or zero.max() > 127 or len(set(zero.tolist())) > 1:  # integer kernels know one zero point per layer
        offset, zero = -zero * weight.scale, np.zeros_like(zero)
    last = len(codes.shape) - 1
    kernel = np.ascontiguousarray(_kernel(called, codes.astype(np.int8)))
    # ONNX Runtime's exact mode for processors without VNNI rewrites both in place, and fails where two layers share one
    held = [e.writer.constant(kernel, np.int8, f"{name}.weight", own=True), e.writer.constant(zero, np.int8, f"{name}.zero", own=True)]
    inputs = [held[0], e.writer.constant(weight.scale), held[1]]
    axis = last if isinstance(called, nn.Linear) else axis
    value = e.writer.node("DequantizeLinear", inputs, axis=axis)
    if offset is None:
        return value
    wide = offset.reshape([-1 if d == axis else 1 for d in range(last + 1)])
    return e.writer.node("Add", [value, e.writer.constant(wide)])


def _summed(e: Emitter, node: fx.Node, called: Any, weight: Weight, bias: Any, codes: Codes) -> str:
    """A convolution of codes whose output stays in float, as integer sums that are scaled: runtimes have no other integer form of it."""
    name, wide = e.path(node), (-1, *(1,) * (weight.codes.ndim - 2))
    kernel = e.writer.constant(np.ascontiguousarray(weight.codes.astype(np.int8)), np.int8, f"{name}.weight", own=True)
    inputs = [codes.name, kernel, e.writer.constant(codes.zero_point, codes.dtype)]
    sums = e.writer.node("Cast", [e.writer.node("ConvInteger", inputs, name, **_options(e, node, called))], to=onnx.TensorProto.FLOAT)
    scaled = e.writer.node("Mul", [sums, e.writer.constant((codes.scale * weight.scale).reshape(wide))])
    return scaled if bias is None else e.writer.node("Add", [scaled, e.writer.constant(bias.reshape(wide), name=f"{name}.bias")])


def _apply(e: Emitter, node: fx.Node, called: Any, weight: str, bias: str | None) -> str:
    source, name = node.args[0], e.path(node)
    inputs = [e.value(source), weight, *([] if bias is None else [bias])]
    if isinstance(called, nn.Linear):
        if len(e.shape(source)) == 2:
            return e.writer.node("Gemm", inputs, name)
        product = e.writer.node("MatMul", inputs[:2], name)
        return product if bias is None else e.writer.node("Add", [product, bias], f"{name}.sum")
    options = _options(e, node, called)
    if isinstance(called, nn.ConvTranspose2d):
        return e.writer.node("ConvTranspose", inputs, name, output_padding=list(called.output_padding), **options)
    return e.writer.node("Conv", inputs, name, **options)


def _options(e: Emitter, node: fx.Node, called: Any) -> dict[str, Any]:
    """The attributes of a convolution."""
    pads = e.padded(node.args[0], _pads(called))
    options: dict[str, Any] = {"kernel_shape": list(called.kernel_size), "pads": pads if any(pads) else None}
    options |= {key: list(v) if set(v) != {1} else None for key, v in (("strides", called.stride), ("dilations", called.dilation))}
    return {**options, "group": called.groups if called.groups > 1 else None}


def _pads(called: Any) -> list[int]:
    """Zeros before every dimension, then behind every dimension."""
    if isinstance(called.padding, str):
        sums = [d * (k - 1) if called.padding == "same" else 0 for d, k in zip(called.dilation, called.kernel_size, strict=True)]
        return [s // 2 for s in sums] + [s - s // 2 for s in sums]
    return [*called.padding, *called.padding]


def _axis(called: Any) -> int:
    """The dimension of the weight that output channels lie in."""
    return 1 if isinstance(called, nn.ConvTranspose2d) else 0


def _kernel(called: Any, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As ONNX has it: (in, out) for linear layers."""
    return weight.T if isinstance(called, nn.Linear) else weight


def _numbers(tensor: Any) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = tensor.detach().cpu().double().numpy()
    return array
