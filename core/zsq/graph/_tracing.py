"""The teacher's forward as a program: recorded where one run shows it all, else as ``torch.export`` sees it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind

from zsq.errors import ZsqError, first_line
from zsq.graph._program import Program, out_of_place
from zsq.graph._recording import record


def trace(teacher: nn.Module, example: Tensor) -> Program:
    """The program of ``teacher``. The first dimension of ``example`` stays free.

    Raises:
        ZsqError: If the network cannot be traced.
    """
    return record(teacher, example) or export(teacher, example)


def export(teacher: nn.Module, example: Tensor) -> Program:
    """The program that ``torch.export`` sees, also where sizes are computed from the batch's.

    Raises:
        ZsqError: If the network cannot be traced.
    """
    program = _exported(teacher, example)
    specs = {getattr(s.arg, "name", ""): s for s in program.graph_signature.input_specs}
    inputs, tensors, parameters = [], {}, set()
    for node in program.graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        node.meta["path"] = stack[-1][0] if stack else ""
        node.meta["dims"] = node.meta["val"].dim() if isinstance(node.meta.get("val"), Tensor) else 0
        if node.op == "get_attr":
            raise refused(teacher, "it runs parts of its forward in a context of their own, such as torch.no_grad() or a branch")
        if node.op != "placeholder":
            continue
        spec = specs[node.name]
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(node)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            assert spec.target is not None
            source = program.constants if spec.target in program.constants else program.state_dict
            tensors[node] = (spec.target, source[spec.target])
            if spec.kind is InputKind.PARAMETER:
                parameters.add(spec.target)
        else:
            raise refused(teacher, f"its input '{node.name}' is not a tensor")
    if len(inputs) != 1:
        raise refused(teacher, f"it takes {len(inputs)} inputs, not one")
    if any(s.kind is not OutputKind.USER_OUTPUT for s in program.graph_signature.output_specs):
        raise refused(teacher, "its forward changes its own buffers in eval mode")
    structure = program.call_spec.out_spec
    assert structure is not None
    return Program(program.graph, inputs[0], tensors, frozenset(parameters), structure)


def refused(teacher: nn.Module, why: str) -> ZsqError:
    """The error of a network whose program is known, but cannot be quantized."""
    return ZsqError(f"this network cannot be quantized: {why}", f"teacher {type(teacher).__name__}", "quantize an inner module instead")


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
def _exported(teacher: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    failures = []
    for strict in (False, True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(teacher, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=strict)
                return program if out_of_place(program.graph) else program.run_decompositions({})
        except Exception as error:  # tracing a user's network can raise anything
            failures.append(error)
    raise ZsqError(
        f"this network cannot be traced: {first_line(failures[0], 200)}",
        f"teacher {type(teacher).__name__}, input {tuple(example.shape)}",
        "its forward has to take one tensor, without branches on values; torch.export.export(teacher, (inputs,)) shows the place",
    ) from failures[0]
