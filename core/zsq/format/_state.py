"""Reads a student's state for a checkpoint and restores it into a student that was just quantized."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from zsq.errors import FileError
from zsq.points import KeepsState, QuantPoint
from zsq.types import Student


def student_state(student: Student) -> dict[str, Any]:
    """Everything in a student that can change after quantization: tensors, ranges, state of its points, training flags."""
    module = student.module
    tensors = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    return {
        "structure": structure(student),
        "tensors": {**tensors, **dict(module.named_buffers())},
        "parameters": [name for name, _ in module.named_parameters()],
        "moving": [name for name, parameter in module.named_parameters() if parameter.requires_grad],
        "training": [path for path, child in module.named_modules() if child.training],
        "points": {path: kept for path, point in student.points.items() if (kept := _point_state(point))},
    }


def restore_student(student: Student, kept: Mapping[str, Any]) -> None:
    """Restore what :func:`student_state` returned in a student that was just quantized.

    Raises:
        FileError: If the two do not have the same layers and operations.
    """
    module = student.module
    try:
        if kept["structure"] != structure(student):
            raise ValueError
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, value in kept["tensors"].items():
            if name not in own or own[name].shape != value.shape:  # a bias or learned range that a component added
                _put(module, name, value, name in kept["parameters"])
        module.load_state_dict({name: kept["tensors"][name] for name in module.state_dict() if name in kept["tensors"]}, strict=False)
        buffers = dict(module.named_buffers())
        with torch.no_grad():
            for name in buffers.keys() & kept["tensors"].keys():  # also those that are in no state_dict
                buffers[name].copy_(kept["tensors"][name])
    except (AttributeError, KeyError, ValueError, RuntimeError):
        hint = "start the run again, without --resume"
        raise FileError("the checkpoint is of another student", "the quantizer, which made another one this time", hint) from None
    for path, values in kept["points"].items():
        point = student.points[path]
        if isinstance(point, KeepsState):
            point.load_kept_state(values)
        elif "range" in values:
            point.set_range(*values["range"])
    moving, training = set(kept["moving"]), set(kept["training"])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in moving)
    for path, child in module.named_modules():
        child.training = path in training


def structure(student: Student) -> str:
    """A checksum of the student's modules and, for a graph, of its code. Tensor values are not included."""
    module = student.module
    lines = [f"{path} {type(child).__name__}" for path, child in module.named_modules()]
    code = str(module.code) if isinstance(module, fx.GraphModule) else ""
    return hashlib.sha256("\n".join([*lines, code]).encode()).hexdigest()


def _point_state(point: QuantPoint) -> dict[str, Any]:
    if isinstance(point, KeepsState):
        return dict(point.kept_state())
    if isinstance(point, nn.Module):
        return {}
    lo, hi = point.range
    return {"range": (lo, hi)} if bool(lo.isfinite().all()) and bool(hi.isfinite().all()) else {}


def _put(module: nn.Module, name: str, value: Tensor, parameter: bool) -> None:
    owner_path, _, attribute = name.rpartition(".")
    owner = module.get_submodule(owner_path)
    value = value.to(next(module.parameters(), value).device)
    if parameter:
        setattr(owner, attribute, nn.Parameter(value.clone()))
    elif attribute in dict(owner.named_buffers(recurse=False)):
        setattr(owner, attribute, value.clone())
    else:
        owner.register_buffer(attribute, value.clone())
