"""The teacher's forward as ``torch.export`` sees it: a program of ATen operations, none of which writes to its inputs."""

from __future__ import annotations

import gc
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from zsq.errors import ZsqError, first_line


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for unreachable cycles: most of the objects that tracing makes stay, and looking through them again and
    again takes a fifth of its time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_uncollected()
def trace(teacher: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The exported program, without in-place operations. The first dimension of ``example`` stays free.

    Raises:
        ZsqError: When the network cannot be traced.
    """
    failures = []
    for strict in (False, True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(teacher, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=strict)
                return program if _out_of_place(program.graph) else program.run_decompositions({})
        except Exception as error:  # whatever tracing makes of a network of the user's
            failures.append(error)
    raise ZsqError(
        f"this network cannot be traced: {first_line(failures[0], 200)}",
        f"teacher {type(teacher).__name__}, input {tuple(example.shape)}",
        "its forward has to take one tensor, without branches on values; torch.export.export(teacher, (inputs,)) shows the place",
    ) from failures[0]


def _out_of_place(graph: fx.Graph) -> bool:
    """Replace in-place operations by their counterparts. False, with some left, where views may share the memory written."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
            continue
        name = node.target._schema.name.removeprefix("aten::")
        packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
        written = node.args[0] if node.args else None
        plain = name.endswith("_") and packet is not None and node.target._overloadname in packet.overloads()
        if not plain or not isinstance(written, fx.Node) or _views(written) or written.op != "call_function":
            return False
        assert packet is not None
        later = [user for user in written.users if user is not node and _after(user, node)]
        node.target = getattr(packet, node.target._overloadname)
        for user in later:
            user.replace_input_with(written, node)
    return True


def _views(node: fx.Node) -> bool:
    """Whether ``node`` is a view, or has one."""
    return any(_is_view(n) for n in (node, *node.users))


def _is_view(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.target is operator.getitem
    return any(r.alias_info is not None and not r.alias_info.is_write for r in node.target._schema.returns)


def _after(node: fx.Node, other: fx.Node) -> bool:
    return any(n is node for n in _following(other))


def _following(node: fx.Node) -> Iterator[fx.Node]:
    while (node := node.next).op != "root":
        yield node
