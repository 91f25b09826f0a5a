"""ATen operations as ONNX nodes: those that move values, those that calculate, and arithmetic on sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from zsq.errors import ZsqError
from zsq.graph import arguments
from zsq_onnx.emitter import Emitter

_FAR = 2**31 - 1


def bounds(node: fx.Node) -> tuple[float, float] | None:
    """What a ReLU or clamp limits its values to; None for any other operation."""
    name = str(getattr(node.target, "_opname", "")) if node.op == "call_function" else ""
    if name not in ("relu", "relu6", "hardtanh", "clamp", "clamp_min"):
        return None
    a = arguments(node)
    low, high = {
        "relu": (0.0, None),
        "relu6": (0.0, 6.0),
        "hardtanh": (a.get("min_val"), a.get("max_val")),
        "clamp": (a.get("min"), a.get("max")),
        "clamp_min": (a.get("min"), None),
    }[name]
    if any(isinstance(v, fx.Node) for v in (low, high)):
        return None
    return (-math.inf if low is None else float(low), math.inf if high is None else float(high))


def drops(e: Emitter, node: fx.Node) -> list[int] | None:
    """The dimensions that a mean over the image takes away; None for any other operation."""
    if node.target is not torch.ops.aten.mean.dim:
        return None
    a, rank = arguments(node), len(e.shape(node.args[0]))
    axes = sorted(d % rank for d in a["dim"] or ())
    return axes if axes == list(range(2, rank)) and rank > 2 and not a["keepdim"] else None


def global_mean(e: Emitter, node: fx.Node) -> str:
    """Mean over all dimensions of the image, which stay as ones."""
    return e.writer.node("GlobalAveragePool", [e.value(node.args[0])], f"{node.name}.pool")


# -- sizes ---------------------------------------------------------------------------------------------------------------

_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "floordiv": "Div", "mod": "Mod"}
SIZES = frozenset({"sym_size", *_ARITHMETIC.keys() - {"add", "sub", "mul"}})


def size(e: Emitter, node: fx.Node, name: str) -> str:
    """A size or arithmetic on sizes, int64 of one element."""
    if name == "sym_size":
        shape = e.writer.node("Shape", [e.value(node.args[0])], f"{node.name}.shape")
        return e.writer.node("Gather", [shape, e.writer.constant([node.args[1]], np.int64)], node.name, axis=0)
    return e.writer.node(_ARITHMETIC[name], [e.size(v) for v in node.args], node.name)


# -- operations that move values: done on codes if there are any -------------------------------------------------------

Move = Callable[[Emitter, fx.Node, Mapping[str, Any], str, str], str | list[str]]


def _same(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    return x


def _reshape(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    return e.writer.node("Reshape", [x, e.sizes(a.get("shape", a.get("size")))], n.name)


def _flatten(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    rank = len(e.shape(n.args[0]))
    start, end = a["start_dim"] % rank, a["end_dim"] % rank
    if start == 1 and end == rank - 1:
        return e.writer.node("Flatten", [x], n.name, axis=1)
    if start == 0:
        return e.writer.node("Reshape", [x, e.sizes([-1, *e.shape(n)[1:]])], n.name)
    return e.writer.node("Reshape", [x, e.sizes([0, *e.shape(n)[1:]])], n.name)


def _permute(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    rank = len(e.shape(n))
    return e.writer.node("Transpose", [x], n.name, perm=[d % rank for d in a["dims"]])


def _transpose(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    rank = len(e.shape(n))
    order = list(range(rank))
    first, second = a["dim0"] % rank, a["dim1"] % rank
    order[first], order[second] = second, first
    return e.writer.node("Transpose", [x], n.name, perm=order)


def _squeeze(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    before = e.shape(n.args[0])
    dims = a.get("dim", range(1, len(before)))
    dims = [dims] if isinstance(dims, int) else dims
    axes = [d % len(before) for d in dims if before[d] == 1]
    return e.writer.node("Squeeze", [x, e.sizes(axes)], n.name) if axes else x


def _unsqueeze(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    return e.writer.node("Unsqueeze", [x, e.sizes([a["dim"] % len(e.shape(n))])], n.name)


def _slice(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    start, end = a["start"] or 0, _FAR if a["end"] is None else a["end"]
    start, end = (v if isinstance(v, fx.Node) else min(v, _FAR) for v in (start, end))
    return e.writer.node("Slice", [x, e.sizes([start]), e.sizes([end]), e.sizes([a["dim"]]), e.sizes([a["step"]])], n.name)


def _select(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    return e.writer.node("Gather", [x, e.writer.constant(a["index"], np.int64)], n.name, axis=a["dim"])


def _chunk(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> list[str]:
    axis, full = a["dim"], e.shape(n.args[0])[a["dim"]]
    given = a.get("split_sizes", a.get("split_size"))
    step = -(-full // a["chunks"]) if "chunks" in a else given
    parts = list(step) if isinstance(step, (list, tuple)) else [min(step, full - i) for i in range(0, full, step)]
    return e.writer.several("Split", [x, e.sizes(parts)], n.name, len(parts), axis=axis)


def _max_pool(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    return e.writer.node("MaxPool", [x], n.name, dilations=_pair(e, n, a["dilation"]), **_window(e, n, a))


def _pad(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    if a.get("mode", "constant") != "constant" or (a.get("value") or 0) != 0:
        return _unsupported(n, "only padding with zeros is translated")
    pads, rank = list(a["pad"]), len(e.shape(n))
    before, behind = [0] * rank, [0] * rank
    for i in range(len(pads) // 2):
        before[rank - 1 - i], behind[rank - 1 - i] = pads[2 * i], pads[2 * i + 1]
    return e.writer.node("Pad", [x, e.sizes(before + behind), zero], n.name)


def _nearest(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    before, after = e.shape(n.args[0]), e.shape(n)
    scales = e.writer.constant([1.0, 1.0, *(b / s for s, b in zip(before[2:], after[2:], strict=True))])
    return e.writer.node(
        "Resize", [x, "", scales], n.name, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


def _pixel_shuffle(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    return e.writer.node("DepthToSpace", [x], n.name, blocksize=a["upscale_factor"], mode="CRD")


def _channel_shuffle(e: Emitter, n: fx.Node, a: Mapping[str, Any], x: str, zero: str) -> str:
    _, channels, *image = e.shape(n)
    split = e.writer.node("Reshape", [x, e.sizes([0, a["groups"], channels // a["groups"], *image])], f"{n.name}.split")
    swapped = e.writer.node("Transpose", [split], f"{n.name}.swap", perm=[0, 2, 1, *range(3, 3 + len(image))])
    return e.writer.node("Reshape", [swapped, e.sizes([0, channels, *image])], n.name)


MOVES: Mapping[str, Move] = {
    **dict.fromkeys(("contiguous", "clone", "alias", "detach", "getitem"), _same),
    **dict.fromkeys(("reshape", "view"), _reshape),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _chunk),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _max_pool),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "flatten": _flatten,
    "permute": _permute,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "slice": _slice,
    "select": _select,
    "upsample_nearest2d": _nearest,
    "pixel_shuffle": _pixel_shuffle,
    "channel_shuffle": _channel_shuffle,
}

# -- operations that calculate --------------------------------------------------------------------------------------------

Function = Callable[[Emitter, fx.Node, Mapping[str, Any]], str]


def _unary(op: str, **names: str) -> Function:
    """An operation of one tensor; ``names`` maps ONNX attributes to ATen arguments."""

    def write(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
        return e.writer.node(op, [e.value(n.args[0])], n.name, **{k: float(a[v]) for k, v in names.items()})

    return write


def _binary(op: str) -> Function:
    def write(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
        left, right = a["self"] if "self" in a else a["a"], a["other"] if "other" in a else a["b"]
        if n.name not in e.shapes:  # sizes, not tensors
            return e.writer.node(op, [e.size(left), e.size(right)], n.name)
        other = e.value(right)
        if a.get("alpha", 1) != 1:
            other = e.writer.node("Mul", [other, e.writer.constant(a["alpha"])], f"{n.name}.alpha")
        return e.writer.node(op, [e.value(left), other], n.name)

    return write


def _clamp(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    limits = bounds(n)
    if limits is None:
        return _unsupported(n, "its limits are computed in the forward")
    if limits == (0.0, math.inf):
        return e.writer.node("Relu", [e.value(n.args[0])], n.name)
    inputs = [e.writer.constant(v) if math.isfinite(v) else "" for v in limits]
    return e.writer.node("Clip", [e.value(n.args[0]), *inputs], n.name)


def _cat(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    return e.writer.node("Concat", [e.value(t) for t in a["tensors"]], n.name, axis=a["dim"])


def _avg_pool(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    if a.get("divisor_override"):
        return _unsupported(n, "divisor_override is not translated")
    inside = int(a["count_include_pad"])
    return e.writer.node("AveragePool", [e.value(n.args[0])], n.name, count_include_pad=inside, **_window(e, n, a))


def _adaptive(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    before, after = e.shape(n.args[0])[2:], e.shape(n)[2:]
    if all(size == 1 for size in after):
        return e.writer.node("GlobalAveragePool", [e.value(n.args[0])], n.name)
    if any(b % s for b, s in zip(before, after, strict=True)):
        return _unsupported(n, f"{before} does not divide into {after}")
    window = [b // s for b, s in zip(before, after, strict=True)]
    return e.writer.node("AveragePool", [e.value(n.args[0])], n.name, kernel_shape=window, strides=window)


def _mean(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    if "dim" not in a or a["dim"] is None:
        return _unsupported(n, "a mean over the batch is not translated")
    rank = len(e.shape(n.args[0]))
    axes = sorted(d % rank for d in a["dim"])
    if axes == list(range(2, rank)) and a["keepdim"]:
        return global_mean(e, n)
    return e.writer.node("ReduceMean", [e.value(n.args[0])], n.name, axes=axes, keepdims=int(a["keepdim"]))


def _interpolate(mode: str) -> Function:
    """As ``torch.nn.functional.interpolate``, with the sizes that it was traced with."""

    def write(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
        source = n.args[0]
        before, after = e.shape(source), e.shape(n)
        grid = "align_corners" if a["align_corners"] else "half_pixel"
        options = {"mode": mode, "coordinate_transformation_mode": grid, **({"cubic_coeff_a": -0.75} if mode == "cubic" else {})}
        x, w = e.value(source), e.writer
        if all(b % s == 0 for s, b in zip(before[2:], after[2:], strict=True)):
            scales = w.constant([1.0, 1.0, *(b / s for s, b in zip(before[2:], after[2:], strict=True))])
            return w.node("Resize", [x, "", scales], n.name, **options)
        count = w.node("Slice", [w.node("Shape", [x], f"{n.name}.shape"), e.sizes([0]), e.sizes([2])], f"{n.name}.count")
        sizes = w.node("Concat", [count, e.sizes(after[2:])], f"{n.name}.sizes", axis=0)
        return w.node("Resize", [x, "", "", sizes], n.name, **options)

    return write


def _gated(op: str, **attributes: float) -> Function:
    """``x * op(x)``."""

    def write(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
        x = e.value(n.args[0])
        return e.writer.node("Mul", [x, e.writer.node(op, [x], f"{n.name}.gate", **attributes)], n.name)

    return write


def _gelu(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    if a.get("approximate", "none") != "none":
        return _unsupported(n, "only the exact form is translated")
    w, x = e.writer, e.value(n.args[0])
    erf = w.node("Erf", [w.node("Mul", [x, w.constant(1 / math.sqrt(2))])])
    return w.node("Mul", [w.node("Mul", [x, w.constant(0.5)]), w.node("Add", [erf, w.constant(1.0)])], n.name)


def _softmax(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    return e.writer.node("Softmax", [e.value(n.args[0])], n.name, axis=a["dim"])


def _mish(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    x = e.value(n.args[0])
    return str(e.writer.node("Mul", [x, e.writer.node("Tanh", [e.writer.node("Softplus", [x])])], n.name))


def _prelu(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    slopes, rank = e.shape(a["weight"])[0], len(e.shape(n))
    shape = [slopes, *(1,) * (rank - 2)] if slopes > 1 else [1]
    return str(e.writer.node("PRelu", [e.value(a["self"]), e.writer.node("Reshape", [e.value(a["weight"]), e.sizes(shape)])], n.name))


def _matmul(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    return str(e.writer.node("MatMul", [e.value(v) for v in n.args], n.name))


def _layer_norm(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    sizes = a["normalized_shape"]
    weight = e.writer.constant(np.ones(sizes)) if a["weight"] is None else e.value(a["weight"])
    inputs = [e.value(a["input"]), weight, *([] if a["bias"] is None else [e.value(a["bias"])])]
    return str(e.writer.node("LayerNormalization", inputs, n.name, axis=-len(sizes), epsilon=float(a["eps"])))


def _group_norm(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    """Groups in the place of channels, whose mean and variance over the image are taken, then scale and shift of each channel."""
    w, (_, channels, *image), groups = e.writer, e.shape(n), a["num_groups"]
    ones = w.constant(np.ones(groups))
    split = w.node("Reshape", [e.value(a["input"]), e.sizes([0, groups, -1])])
    normed = w.node("InstanceNormalization", [split, ones, w.constant(np.zeros(groups))], epsilon=float(a["eps"]))
    found = w.node("Reshape", [normed, e.sizes([0, channels, *image])], n.name)
    for op, values in (("Mul", a["weight"]), ("Add", a["bias"])):
        if values is not None:
            found = w.node(op, [found, w.node("Reshape", [e.value(values), e.sizes([channels, *(1,) * len(image)])])])
    return str(found)


def _instance_norm(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> str:
    if not a["use_input_stats"]:
        return _unsupported(n, "only statistics of the image are translated")
    channels = e.shape(n)[1]
    scale = e.writer.constant(np.ones(channels)) if a["weight"] is None else e.value(a["weight"])
    shift = e.writer.constant(np.zeros(channels)) if a["bias"] is None else e.value(a["bias"])
    return str(e.writer.node("InstanceNormalization", [e.value(a["input"]), scale, shift], n.name, epsilon=float(a["eps"])))


FUNCTIONS: Mapping[str, Function] = {
    **dict.fromkeys(("relu", "relu6", "hardtanh", "clamp", "clamp_min"), _clamp),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _avg_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _adaptive),
    "add": _binary("Add"),
    "sub": _binary("Sub"),
    "mul": _binary("Mul"),
    "div": _binary("Div"),
    "cat": _cat,
    "mean": _mean,
    "sigmoid": _unary("Sigmoid"),
    "tanh": _unary("Tanh"),
    "exp": _unary("Exp"),
    "sqrt": _unary("Sqrt"),
    "neg": _unary("Neg"),
    "abs": _unary("Abs"),
    "leaky_relu": _unary("LeakyRelu", alpha="negative_slope"),
    "elu": _unary("Elu", alpha="alpha"),
    "softplus": _unary("Softplus"),
    "silu": _gated("Sigmoid"),
    "hardswish": _gated("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardsigmoid": lambda e, n, a: e.writer.node("HardSigmoid", [e.value(n.args[0])], n.name, alpha=1 / 6, beta=0.5),
    "gelu": _gelu,
    "mish": _mish,
    "selu": _unary("Selu"),
    "celu": _unary("Celu", alpha="alpha"),
    "prelu": _prelu,
    "matmul": _matmul,
    "bmm": _matmul,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "softmax": _softmax,
    "upsample_bilinear2d": _interpolate("linear"),
    "upsample_bicubic2d": _interpolate("cubic"),
}


def _window(e: Emitter, n: fx.Node, a: Mapping[str, Any]) -> dict[str, Any]:
    """Kernel, strides and padding of a pooling operation."""
    kernel = _pair(e, n, a["kernel_size"])
    pads = _pair(e, n, a["padding"])
    strides = _pair(e, n, a["stride"]) if a["stride"] else kernel
    return {"kernel_shape": kernel, "strides": strides, "pads": [*pads, *pads], "ceil_mode": int(a["ceil_mode"])}


def _pair(e: Emitter, n: fx.Node, value: Any) -> list[int]:
    """One number per dimension of the image."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * (len(e.shape(n)) - 2) if len(values) == 1 else values


def _unsupported(node: fx.Node, why: str) -> str:
    name = getattr(node.target, "_opname", node.target)
    raise ZsqError(f"'{name}' has no translation to ONNX here: {why}", f"operation '{node.name}'", "replace it in the teacher")
