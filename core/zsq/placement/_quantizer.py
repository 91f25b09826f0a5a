"""The ``uniform`` quantizer: decides which values are quantized under the schemes ``paper`` and ``deploy``.

``paper``, as the GDFQ line publishes: the weights of every convolution and linear layer, first and last included, each output
channel on its own asymmetric min/max grid; activations directly after ReLU, ReLU6 and clamps at zero, and nowhere else.
Input, biases, BatchNorm, residual sums before their ReLU and pooled values stay in float.

``deploy``, for integer kernels: symmetric per-channel weights, and an unsigned asymmetric grid for the network's input, every
input of a convolution or linear layer, every operand and result of a sum, product, concatenation or average. A value has one
point; where it goes through a ReLU and nowhere else, the point stands after the ReLU. Operations that only move values
(max-pooling, reshaping, padding with zeros) need none; bilinear and bicubic interpolation is calculated in float between two
points. The network's output stays in float; what is only moved, joined or interpolated on its way there has at least 8 bits.
Once all is frozen, biases are rounded and layers computed as integer kernels do it, see ``zsq.placement._biases`` and
``zsq.placement._integers``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from zsq.errors import ZsqError
from zsq.graph import INTERPOLATIONS, Lifted, answers, deploy_sites, kind_of, lift, op_name, paper_sites, unused_path
from zsq.grids import LAYERS, ActPoint, QuantLayer
from zsq.options import UniformOptions
from zsq.placement._biases import round_biases
from zsq.placement._integers import use_integers
from zsq.placement._sums import settle_sums
from zsq.points import QuantPoint
from zsq.types import Batch, Context, Student, Teacher

#: Activation functions that get no point under ``paper``. The report lists them as not quantized.
_OTHER_ACTIVATIONS = frozenset(
    ("sigmoid", "silu", "gelu", "hardswish", "hardsigmoid", "tanh", "leaky_relu", "elu", "mish", "softplus", "celu", "selu", "prelu")
)


class Uniform:
    """Uniform affine grids for weights and activations.

    Args:
        options: What every layer and activation gets.
        ctx: Not used beyond construction.
        weight_bits: Layer path to bits if they differ: what a quantizer that assigns bits layer by layer hands over.
        act_bits: Activation point path to bits, likewise.
    """

    def __init__(self, options: UniformOptions, ctx: Context, weight_bits: Mapping[str, int] | None = None,
                 act_bits: Mapping[str, int] | None = None) -> None:  # fmt: skip
        self.options, self.ctx, self.weight_bits, self.act_bits = options, ctx, weight_bits or {}, act_bits or {}

    def quantize(self, teacher: Teacher, pool: Batch | None) -> Student:
        """A student with its own copy of the teacher's parameters; weights live, activation points without a range.

        Raises:
            ZsqError: If the network cannot be traced or has nothing to quantize.
        """
        parameter = next(teacher.module.parameters(), torch.empty(0))
        example = torch.zeros((2, *teacher.inputs.shape), device=parameter.device)
        wanted = tuple(dict.fromkeys((*teacher.taps, *teacher.blocks)))
        lifted = lift(teacher.module, example, tuple(p for p in wanted if p))
        module, graph = lifted.module, lifted.module.graph
        layers = list(dict.fromkeys(n.target for n in graph.nodes if n.op == "call_module" and kind_of(module, n) in LAYERS))
        if not layers:
            raise ZsqError(
                "found nothing to quantize: no convolution or linear layer whose weight is a parameter",
                f"teacher {teacher.ref or type(teacher.module).__name__}",
                "; ".join(sorted(set(lifted.reasons.values())))
                or "the network needs at least one nn.Conv2d or nn.Linear, or their functional forms",
            )
        for path in layers:
            self._wrap(module, str(path), first=path == layers[0], last=path == layers[-1])
        paper = self.options.scheme == "paper"
        sites = paper_sites(module) if paper else deploy_sites(module)
        if self.options.float_input:
            sites = [node for node in sites if node.op != "placeholder"]
        last = set() if paper else answers(module)
        points = {node: self._point(teacher.module, module, node, node in last) for node in sites if self.options.act_bits is not None}
        names = {path: self._carrier(teacher.module, module, path, node, points) for path, node in lifted.outputs.items()}
        names |= {str(n.target): str(n.target) for n in graph.nodes if n.op == "call_module" and _has_module(teacher.module, str(n.target))}
        module.graph.lint()
        module.recompile()
        rows = list(_rows(lifted, module, set(points.values())))
        for node in graph.nodes:
            node.meta.clear()
        finish = partial(_finish, module) if self.options.scheme == "deploy" else None
        return Student(module, dict(_points(module)), names, rows, self.options.scheme, finish=finish)

    def _wrap(self, module: fx.GraphModule, path: str, first: bool, last: bool) -> None:
        """Replace the float layer by the quantized one."""
        o = self.options
        layer: Any = module.get_submodule(path)
        bits = o.first_bits if first and o.first_bits else o.last_bits if last and o.last_bits else o.weight_bits
        bits = self.weight_bits.get(path, bits)
        symmetric = o.weight_symmetric if o.weight_symmetric is not None else o.scheme == "deploy"
        layer.__class__ = LAYERS[type(layer).__name__]
        layer.point(bits, symmetric, o.per_channel)
        layer.weight_point.to(layer.weight.device)

    def _point(self, teacher: nn.Module, module: fx.GraphModule, node: fx.Node, answer: bool = False) -> str:
        """Insert an activation point after ``node``; its path, ``SITE_point``. An ``answer`` has at least 8 bits."""
        path = unused_path((teacher, module), f"{_site(teacher, node)}_point")
        assert self.options.act_bits is not None
        bits = max(8, self.options.act_bits) if answer else self.options.act_bits
        point = ActPoint(self.act_bits.get(path, bits), bool(self.options.act_symmetric))
        module.add_submodule(path, point.to(next(module.parameters()).device))
        _insert(module.graph, node, path)
        return path

    def _carrier(self, teacher: nn.Module, module: fx.GraphModule, path: str, node: fx.Node, points: dict[fx.Node, str]) -> str:
        """The path in the student with the same output as ``path`` in the teacher."""
        if node.op == "call_module" and node.target == path:
            return path
        if node in points:
            return points[node]
        out = unused_path((teacher, module), f"{path}.out" if _accepts_child(module, path) else f"{path}_out")
        module.add_submodule(out, nn.Identity())
        _insert(module.graph, node, out)
        return out


def _finish(module: fx.GraphModule) -> None:
    """Make the student compute as integer kernels do. Later calls change nothing."""
    if any(isinstance(layer, QuantLayer) and layer.integers is not None for layer in module.modules()):
        return
    settle_sums(module)
    round_biases(module)
    use_integers(module)


def _insert(graph: fx.Graph, node: fx.Node, path: str) -> None:
    with graph.inserting_after(node):
        call = graph.call_module(path, (node,))
        call.meta["site"] = node.meta["site"]
    node.replace_all_uses_with(call, delete_user_cb=lambda user: user is not call)


def _site(teacher: nn.Module, node: fx.Node) -> str:
    """The name of an activation's site: the activation module's own path, or its owner's path and the operation."""
    path, op = str(node.meta["site"][0]), str(node.meta["site"][1])
    if node.op in ("placeholder", "call_module"):
        return path or op
    owner = teacher.get_submodule(path)
    own = type(owner).__module__.startswith("torch.nn.modules") and not list(owner.children())
    return path if own and path else f"{path}.{op}" if path else op


def _has_module(root: nn.Module, path: str) -> bool:
    return any(path == name for name, _ in root.named_modules())


def _accepts_child(module: nn.Module, path: str) -> bool:
    """Whether ``path`` is only a container in the student or does not exist yet, not a layer."""
    try:
        return type(module.get_submodule(path)) is nn.Module
    except AttributeError:
        return True


def _points(module: fx.GraphModule) -> Iterator[tuple[str, QuantPoint]]:
    """Every point by its path, in the order of execution."""
    seen = set()
    for node in module.graph.nodes:
        if node.op == "call_module" and node.target not in seen:
            seen.add(node.target)
            called = module.get_submodule(str(node.target))
            if isinstance(called, ActPoint):
                yield str(node.target), called
            elif isinstance(called, QuantLayer):
                yield f"{node.target}.weight_point", called.weight_point


def _rows(lifted: Lifted, module: fx.GraphModule, points: set[str]) -> Iterator[dict[str, Any]]:
    """One row per parameterised layer and activation site, in the order of execution."""
    seen: set[str] = set()
    for node in module.graph.nodes:
        path = str(node.target) if node.op == "call_module" else ".".join(p for p in node.meta.get("site", ("", "")) if p)
        if node.op not in ("call_module", "call_function") or (node.op == "call_module" and path in seen):
            continue
        seen.add(path)
        row: dict[str, Any] = {
            "path": path,
            "type": op_name(node),
            "wrapped": False,
            "weight_bits": None,
            "act_bits": None,
            "reason": "",
            "shape": None,
            "params": 0,
        }
        held = [v for v in node.all_input_nodes if v.op == "get_attr"]
        if node.op == "call_module":
            called: Any = module.get_submodule(path)
            row["type"] = type(called).__name__.removeprefix("Quant")
            row["params"] = sum(p.numel() for p in called.parameters(recurse=False))
            if path in points:
                yield row | {"path": path, "type": "activation", "wrapped": True, "act_bits": called.bits}
            elif isinstance(called, QuantLayer):
                yield row | {"wrapped": True, "weight_bits": called.weight_point.bits, "shape": list(called.weight.shape)}
            elif isinstance(called, nn.modules.batchnorm._BatchNorm):
                yield row | {"shape": [called.num_features], "reason": "normalisation stays in float"}
        elif node in lifted.reasons:
            yield row | {"params": _sizes(module, held), "reason": lifted.reasons[node]}
        elif held and _sizes(module, held):
            yield row | {"params": _sizes(module, held), "reason": f"{op_name(node)} stays in float"}
        elif op_name(node) in INTERPOLATIONS:
            yield row | {"reason": "interpolation is calculated in float, between quantized values"}
        elif op_name(node) in _OTHER_ACTIVATIONS and not any(str(u.target) in points for u in node.users):
            yield row | {"reason": "no scheme point follows this activation"}


def _sizes(module: fx.GraphModule, nodes: list[fx.Node]) -> int:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return sum(parameters[str(n.target)].numel() for n in nodes if str(n.target) in parameters)
