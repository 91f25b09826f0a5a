"""Checks that a traced network computes the same as its teacher, and finds the nodes that hold the outputs of the teacher's modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from zsq.errors import ZsqError, first_line
from zsq.graph._running import node_values


def find_outputs(teacher: nn.Module, module: fx.GraphModule, example: Tensor, wanted: tuple[str, ...]) -> dict[str, fx.Node]:
    """Compare trace and teacher on a batch of another size than ``example``, and find the nodes that hold module outputs.

    Args:
        teacher: In eval mode.
        module: Its trace.
        example: What the teacher was traced with.
        wanted: Paths of the modules whose outputs are looked for.

    Raises:
        ZsqError: If the trace does not run on another batch, computes something else, or lacks an output.
    """
    rng = torch.Generator().manual_seed(0)
    shape = (example.shape[0] + 1, *example.shape[1:])
    inputs = torch.randn(shape, generator=rng).to(example)
    truth: dict[str, Any] = {}
    hooks = [teacher.get_submodule(p).register_forward_hook(lambda _m, _i, out, p=p: truth.__setitem__(p, out)) for p in wanted]
    try:
        with torch.no_grad():
            expected = teacher(inputs)
            got, seen = node_values(module, inputs)
    except Exception as error:  # a user's network can raise anything
        raise ZsqError(
            f"the traced network does not run on a batch of {shape[0]}: {first_line(error)}",
            f"teacher {type(teacher).__name__}, traced with a batch of {example.shape[0]}",
            "its forward has to work for any number of images, e.g. x.flatten(1) instead of x.view(2, -1)",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    pairs = zip(pytree.tree_leaves(got), pytree.tree_leaves(expected), strict=True)
    if not all(torch.allclose(g, e, rtol=1e-3, atol=1e-4 * float(e.abs().max() + 1e-6)) for g, e in pairs if isinstance(e, Tensor)):
        raise ZsqError(
            "the traced network does not compute what the teacher computes",
            f"teacher {type(teacher).__name__}",
            "its forward depends on something else than its input, such as random numbers",
        )
    return {path: _carrier(path, truth.get(path), seen, teacher) for path in wanted}


def _carrier(path: str, value: Any, seen: Mapping[fx.Node, Any], teacher: nn.Module) -> fx.Node:
    alike = [
        n
        for n, v in seen.items()
        if n.op in ("call_function", "call_module", "placeholder")
        and isinstance(v, Tensor)
        and isinstance(value, Tensor)
        and v.shape == value.shape
        and torch.allclose(v, value)
    ]
    within = [n for n in alike if f"{n.meta['site'][0]}.".startswith(f"{path}.")]
    if not alike:
        raise ZsqError(
            f"the output of '{path}' is not a tensor in the traced network",
            f"teacher {type(teacher).__name__}, taps and blocks",
            "choose modules that return one tensor and run in eval mode",
        )
    return (within or alike[:1])[-1]
