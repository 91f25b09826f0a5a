"""Turns the teacher's forward pass into a graph of ATen operations, with convolution, linear and BatchNorm layers as modules.

A trace shows what a network does however it is written: modules, functional calls, in-place operators, one module used in
several places. The result computes what the teacher computes, with parameters of its own at the teacher's paths.
"""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from zsq.graph._outputs import find_outputs
from zsq.graph._program import Program
from zsq.graph._tracing import refused, trace

_aten = torch.ops.aten

#: Operations that become quantized layers, and the float layer each is lifted to.
LAYER_OPS: Mapping[Any, type[nn.Module]] = {
    _aten.conv1d.default: nn.Conv1d,
    _aten.conv1d.padding: nn.Conv1d,
    _aten.conv2d.default: nn.Conv2d,
    _aten.conv2d.padding: nn.Conv2d,
    _aten.conv3d.default: nn.Conv3d,
    _aten.conv3d.padding: nn.Conv3d,
    _aten.conv_transpose2d.input: nn.ConvTranspose2d,
    _aten.linear.default: nn.Linear,
}
#: The layer operations, including those that are never lifted and stay in float.
_LAYER_NAMES = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "convolution", "addmm")
_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_BATCH_NORMS = (_aten.batch_norm.default, _aten._native_batch_norm_legit_no_training.default)
#: Operations that do nothing in eval mode.
_NOTHING = (_aten.dropout.default, _aten.feature_dropout.default, _aten.alpha_dropout.default)
#: A student runs in channels_last, where ``view`` fails and ``reshape`` works.
_SAFER: Mapping[Any, Any] = {_aten.view.default: _aten.reshape.default, _aten._unsafe_view.default: _aten.reshape.default}
#: Operators on sizes that a graph may contain besides ATen.
SIZE_OPS: Mapping[str, Callable[..., Any]] = {
    name: getattr(operator, name)
    for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
}


@dataclass(frozen=True)
class Lifted:
    """A teacher as a graph.

    Args:
        module: Computes what the teacher computes. Every node carries ``meta["site"]``: the path of the module that the
            operation belongs to, and the operation's short name.
        outputs: Wanted module path to the node that carries that module's output.
        reasons: Node of a layer that was not lifted, and why.
    """

    module: fx.GraphModule
    outputs: Mapping[str, fx.Node]
    reasons: Mapping[fx.Node, str] = field(default_factory=dict)


def lift(teacher: nn.Module, example: Tensor, wanted: tuple[str, ...] = ()) -> Lifted:
    """Trace ``teacher`` (in eval mode, not changed) on ``example``; the batch size stays free.

    Args:
        teacher: Takes one tensor.
        example: At least two images.
        wanted: Module paths whose outputs have to be found in the graph.

    Raises:
        ZsqError: If the network cannot be traced, or its trace does not compute the same.
    """
    program = trace(teacher, example)
    lifted = _Lifting(teacher, program)()
    outputs = find_outputs(teacher, lifted.module, example, wanted)
    return Lifted(lifted.module, outputs, lifted.reasons)


def unused_path(roots: tuple[nn.Module, ...], path: str) -> str:
    """``path``, or ``path_1``, ``path_2``... : the first name that is free in all ``roots``."""
    number, candidate = 0, path
    while any(_has(root, candidate) for root in roots):
        number += 1
        candidate = f"{path}_{number}"
    return candidate


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an ATen node by name, including defaults."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    values = {a.name: a.default_value for a in schema if a.has_default_value()}
    values |= dict(zip((a.name for a in schema), node.args, strict=False))
    return {**values, **node.kwargs}


def _has(root: nn.Module, path: str) -> bool:
    value: Any = root
    for part in path.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


class _Lifting:
    """One pass over a program, building the new graph."""

    def __init__(self, teacher: nn.Module, program: Program) -> None:
        self.teacher, self.program = teacher, program
        self.root, self.graph = nn.Module(), fx.Graph()
        self.values: dict[fx.Node, Any] = {}
        self.reasons: dict[fx.Node, str] = {}
        self.shared: list[tuple[fx.Node, dict[str, Any], str]] = []
        self.tensors = program.tensors

    def __call__(self) -> Lifted:
        self.values[self.program.inputs] = self.graph.placeholder("inputs")
        self.values[self.program.inputs].meta["site"] = ("", "input")
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self.values[node] = self._layer(node) or self._norm(node) or self._plain(node)
            elif node.op == "output":
                self._output(node)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = fx.GraphModule(self.root, self.graph, "Student")
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.recompile()
        return Lifted(module.eval(), {}, {n: r for n, r in self.reasons.items() if n.graph is module.graph})

    def _output(self, node: fx.Node) -> None:
        flat = [self._map(v) for v in node.args[0]]  # type: ignore[union-attr]
        self.graph.output(pytree.tree_unflatten(flat, self.program.structure))

    def _map(self, value: Any) -> Any:
        """Map a value of the traced graph to the new graph; tensors of the teacher become ``get_attr`` nodes where used."""
        return fx.node.map_aggregate(value, lambda v: self._use(v) if isinstance(v, fx.Node) else v)

    def _use(self, node: fx.Node) -> fx.Node:
        if node not in self.values:
            path, tensor = self.tensors[node]
            if not _has(self.root, path):
                self._own(path, tensor)
            self.values[node] = self.graph.get_attr(path)
            self.values[node].meta["site"] = (path, "get_attr")
        found: fx.Node = self.values[node]
        return found

    def _own(self, path: str, tensor: Tensor) -> None:
        """A copy of the teacher's tensor at its path in the new root."""
        owner, _, name = path.rpartition(".")
        parent = self._parent(owner)
        copy = tensor.detach().clone()
        if path in self.program.parameters:
            parent.register_parameter(name, nn.Parameter(copy))
        else:
            parent.register_buffer(name, copy)

    def _parent(self, path: str) -> nn.Module:
        module = self.root
        for part in path.split(".") if path else ():
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        return module

    def _site(self, node: fx.Node) -> tuple[str, str]:
        name = (
            node.target._schema.name.rpartition(":")[2]
            if isinstance(node.target, torch._ops.OpOverload)
            else getattr(node.target, "__name__", "op")
        )
        path = node.meta["path"]
        return (path if _has(self.teacher, path) or not path else "", name)

    def _place(self, path: str, module: nn.Module, inputs: Any, node: fx.Node) -> fx.Node:
        """A call of the module at ``path``; ``module`` is added there first if needed."""
        if not self._placed(path):
            owner, _, name = path.rpartition(".")
            old = getattr(self._parent(owner), name, None)
            for child, inner in old.named_children() if old is not None else ():
                module.add_module(child, inner)
            setattr(self._parent(owner), name, module)
        call = self.graph.call_module(path, (self._map(inputs),))
        call.meta["site"] = (path, type(module).__name__)
        return call

    def _placed(self, path: str) -> bool:
        module: Any = self.root
        for part in path.split("."):
            module = getattr(module, part, None)
        return module is not None and type(module) is not nn.Module

    def _plain(self, node: fx.Node) -> Any:
        if node.target is operator.getitem and isinstance(self.values.get(node.args[0]), fx.Node):  # type: ignore[arg-type]
            lifted = self.values[node.args[0]]  # type: ignore[index]
            if lifted.op == "call_module":  # the first result of a functional BatchNorm
                return lifted
        name = str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.target)))
        if name.startswith(("_assert", "sym_constrain", "_guards")):
            return None
        if node.target in _NOTHING or _takes_everything(node):
            return self._map(node.args[0])
        if not isinstance(node.target, torch._ops.OpOverload) and node.target not in SIZE_OPS.values():
            raise refused(self.teacher, f"it uses {name}, which is not a tensor operation of PyTorch's ATen library")
        copy = self.graph.call_function(_SAFER.get(node.target, node.target), self._map(node.args), self._map(dict(node.kwargs)))
        copy.meta["site"] = self._site(node)
        if name in _LAYER_NAMES:
            self.reasons[copy] = self._why_float(node)
        return copy

    # Convolutions and linear layers

    def _layer(self, node: fx.Node) -> fx.Node | None:
        if node.target not in LAYER_OPS or self._why_float(node):
            return None
        a = arguments(node)
        layer = self._build(LAYER_OPS[node.target], self.tensors[a["weight"]][1], a)
        return self._place(self._home(node, a["weight"]), layer, a["input"], node)

    def _home(self, node: fx.Node, weight: fx.Node) -> str:
        """The path of a layer, taken from its weight. Layers with a shared weight but other settings get their own copy and path."""
        name, settings = self.tensors[weight][0], _settings(node)
        if all(_settings(user) == settings for user in weight.users):
            return name.removesuffix(".weight")
        found = next((path for shared, known, path in self.shared if shared is weight and known == settings), "")
        if not found:
            found, taken = str(node.meta["path"]), {path for _, _, path in self.shared}
            if found in taken or not _holds(self.teacher, found, name):
                found = name.removesuffix(".weight")
            if found in taken or self._placed(found):
                found = unused_path((self.teacher, self.root), found)
            self.shared.append((weight, settings, found))
        return found

    def _why_float(self, node: fx.Node) -> str:
        """The reason why a layer cannot be lifted, or an empty string."""
        if node.target not in LAYER_OPS:
            return f"{getattr(node.target, '_opname', 'this operation')} is not supported"
        a = arguments(node)
        if a["weight"] not in self.tensors:
            return "its weight is computed in the forward"
        if a["bias"] is not None and a["bias"] not in self.tensors:
            return "its bias is computed in the forward"
        if not all(self._is_layer_of(user, a["weight"]) for user in a["weight"].users):
            return "its weight is also used elsewhere"
        return ""

    def _is_layer_of(self, node: fx.Node, weight: fx.Node) -> bool:
        """Whether ``node`` is a layer that can be lifted and uses ``weight`` only as its weight."""
        a = arguments(node) if node.target in LAYER_OPS else {}
        known = a.get("bias") is None or a["bias"] in self.tensors
        return known and a.get("weight") is weight and weight not in (a["input"], a["bias"])

    def _build(self, kind: type[nn.Module], weight: Tensor, a: dict[str, Any]) -> nn.Module:
        bias = a["bias"]
        options: dict[str, Any] = {"bias": bias is not None, "device": "meta", "dtype": weight.dtype}
        if kind is nn.Linear:
            layer: Any = nn.Linear(weight.shape[1], weight.shape[0], **options)
        else:
            size = weight.dim() - 2
            transposed = kind is nn.ConvTranspose2d
            channels = weight.shape[:2] if transposed else weight.shape[1::-1]
            factors = (1, a["groups"]) if transposed else (a["groups"], 1)
            for key in ("stride", "padding", "dilation", "output_padding"):
                if key in a:
                    options[key] = a[key] if isinstance(a[key], str) else _each(a[key], size)
            layer = kind(channels[0] * factors[0], channels[1] * factors[1], tuple(weight.shape[2:]), groups=a["groups"], **options)
        layer.weight = nn.Parameter(weight.detach().clone())
        if bias is not None:
            layer.bias = nn.Parameter(self.tensors[bias][1].detach().clone())
        return layer  # type: ignore[no-any-return]

    # BatchNorm

    def _norm(self, node: fx.Node) -> fx.Node | None:
        if node.target not in _BATCH_NORMS:
            return None
        a = arguments(node)
        mean = a["running_mean"]
        if a.get("training") or mean not in self.tensors or (a["weight"] is not None and a["weight"] not in self.tensors):
            return None
        path = self.tensors[mean][0].removesuffix(".running_mean")
        original = self.teacher.get_submodule(path) if _has(self.teacher, path) else None
        momentum = original.momentum if isinstance(original, nn.modules.batchnorm._BatchNorm) else a["momentum"]
        affine = a["weight"] is not None
        norm: Any = _NORMS[a["input"].meta["dims"]](len(self.tensors[mean][1]), a["eps"], momentum, affine)
        with torch.no_grad():
            for name in ("weight", "bias", "running_mean", "running_var"):
                if a[name] is not None:
                    getattr(norm, name).copy_(self.tensors[a[name]][1])
            if getattr(original, "num_batches_tracked", None) is not None:
                norm.num_batches_tracked.copy_(original.num_batches_tracked)  # type: ignore[union-attr]
        return self._place(path, norm.to(self.tensors[mean][1].device).eval(), a["input"], node)


def _takes_everything(node: fx.Node) -> bool:
    """Whether ``node`` is the slice ``x[:]``, which some traces of ``x[:, 0]`` contain and others do not."""
    if node.target is not _aten.slice.Tensor:
        return False
    a = arguments(node)
    return a["start"] in (None, 0) and a["end"] in (None, sys.maxsize) and a["step"] == 1


def _holds(root: nn.Module, path: str, name: str) -> bool:
    """Whether the tensor ``name`` is the weight of the module at ``path`` too."""
    weight = f"{path}.weight" if path else "weight"
    return _has(root, path) and _has(root, weight) and _value(root, weight) is _value(root, name)


def _value(root: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name)


def _settings(node: fx.Node) -> dict[str, Any]:
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    return {"operation": node.target, **{k: v for k, v in arguments(node).items() if k != "input"}}


def _each(value: Any, size: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * size if len(values) == 1 else values
