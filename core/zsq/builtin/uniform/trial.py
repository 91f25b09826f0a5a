"""Whether a network can run on the inputs it says it takes, tried on shapes alone: no memory of their size, no arithmetic."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from zsq.builtin.uniform.graph import SIZE_OPS

#: Numbers in one value of a network for one image, and the largest size: far more than any has.
_LARGEST = 2**31


def tried(module: fx.GraphModule, shape: tuple[int, ...], device: torch.device) -> fx.GraphModule:
    """``module``, which is on ``device``, refused when it does not take one image of ``shape`` or gives out no tensor.

    Raises:
        ValueError, RuntimeError: As the operation that fails says it.
    """
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        results = _Trial(module).run(torch.empty((1, *shape), device=device))
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(results)):
        raise ValueError("the network gives out no tensor")
    return module


class _Trial(fx.Interpreter):
    """Runs the nodes one by one, and stops at values that no network has."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in SIZE_OPS.values() and target is not operator.getitem and not all(isinstance(v, (int, float)) for v in args):
            raise ValueError(f"{target.__name__} calculates with sizes only")
        return super().call_function(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for leaf in pytree.tree_leaves(result):
            if (leaf.numel() if isinstance(leaf, Tensor) else abs(leaf) if isinstance(leaf, (int, float)) else 0) > _LARGEST:
                raise ValueError(f"the result of '{n.name}' is too large")
        return result
