"""Traces the teacher's forward pass: records one run where that is enough, else uses ``torch.export``."""

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
    """The program from ``torch.export``, which also handles sizes computed from the batch size.

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
            raise refused(teacher, "its forward pass contains a separate context, such as torch.no_grad() or a branch")
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
        raise refused(teacher, "its forward pass changes its own buffers in eval mode")
    structure = program.call_spec.out_spec
    assert structure is not None
    return Program(program.graph, inputs[0], tensors, frozenset(parameters), structure)


def refused(teacher: nn.Module, why: str) -> ZsqError:
    """The error for a network that can be traced but not quantized."""
    return ZsqError(f"this network cannot be quantized: {why}", f"teacher {type(teacher).__name__}", "quantize an inner module instead")


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable Python's garbage collector: most objects that tracing creates stay alive, and scanning them repeatedly takes a fifth of
    the tracing time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_without_garbage_collection()
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
