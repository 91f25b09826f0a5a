"""Checks that a loaded network runs on its declared input shape: first on shapes only, without memory, then on one image of zeros."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from zsq.graph import SIZE_OPS
from zsq.grids import ActPoint

#: Most numbers in all values of a network for one image, and the largest size: far above every real network.
_LARGEST = 2**32
_SHAPES = torch.device("meta")


def try_on(module: fx.GraphModule, shape: tuple[int, ...]) -> None:
    """Refuse ``module``, on the CPU, if it does not take one image of ``shape`` or returns no tensor.

    Raises:
        ValueError, RuntimeError: From the operation that fails.
    """
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shapes = {f"module.{name}": torch.empty_like(tensor, device=_SHAPES) for name, tensor in held.items()}
    try:
        with torch.no_grad():
            functional_call(_Module(module), shapes, (torch.empty((1, *shape), device=_SHAPES),))
            results = module(torch.zeros((1, *shape)))
    except NotImplementedError:  # an operation that cannot run on shapes alone
        return
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(results)):
        raise ValueError("the network returns no tensor")


class _Module(nn.Module):
    """Runs a graph node by node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        return _DryRun(self.module).run(x)


class _DryRun(fx.Interpreter):
    """Runs on shapes only, and raises at sizes that no real network has."""

    numbers = 0

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module's result. Points and BatchNorm keep the shape, so their input is returned without a call."""
        module: Any = self.fetch_attr(target)
        if isinstance(module, ActPoint) and isinstance(args[0], Tensor):
            return args[0]
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module._check_input_dim(args[0])  # type: ignore[no-untyped-call]
            if args[0].shape[1] != module.num_features:
                raise ValueError(f"'{target}' takes {module.num_features} channels, not {args[0].shape[1]}")
            return args[0]
        return super().call_module(target, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function's result; new tensors are created on the meta device."""
        if target in SIZE_OPS.values() and target is not operator.getitem and not all(isinstance(v, (int, float)) for v in args):
            raise ValueError(f"{target.__name__} computes with sizes only")
        args, kwargs = pytree.tree_map_only(torch.device, lambda _: _SHAPES, (args, kwargs))
        return super().call_function(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        """A node's result; raises ValueError when it is too large."""
        result = super().run_node(n)
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.numbers += leaf.numel()
            if self.numbers > _LARGEST or (isinstance(leaf, (int, float)) and abs(leaf) > _LARGEST):
                raise ValueError(f"the result of '{n.name}' is too large")
        return result
