"""Saving a student and building it again: ``model.safetensors`` with packed codes, ``config.json`` with the network as plain values.

``model.safetensors`` holds, by path: ``LAYER.weight.codes`` (uint8, packed at the true bit width, see ``uniform/pack.py``),
``LAYER.weight.scale`` (float32) and, for asymmetric grids, ``LAYER.weight.zero_point`` (int32); every other parameter and
buffer as it is; and one row per activation point in ``activations.range`` (lo, hi), ``activations.scale`` and
``activations.zero_point``. ``config.json`` holds modules and graph in the closed encoding of ``uniform/encoding.py``: the
network is built again without the teacher's code, and nothing in the files is executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, fx, nn

from zsq.builtin.uniform.encoding import decode_graph, decode_module, encode_graph, encode_module
from zsq.builtin.uniform.pack import pack, unpack
from zsq.builtin.uniform.points import ActPoint, WeightPoint
from zsq.errors import ZsqError
from zsq.files import write_atomic
from zsq.options import Options
from zsq.run.saved import CONFIG, FORMAT, WEIGHTS
from zsq.types import Context, Student


class Safetensors:
    """Packed integer codes, scales, zero points and configuration; ``zsq.load`` reads them. Same student, same bytes."""

    def __init__(self, options: Options, ctx: Context) -> None:
        self.ctx = ctx

    def export(self, student: Student, manifest: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write both files.

        Raises:
            ZsqError: When the student is not a graph of known modules, or the disk refuses.
        """
        module = student.module
        if not isinstance(module, fx.GraphModule):
            raise ZsqError(f"cannot save a {type(module).__name__}: not a graph", "exporter safetensors", "use --quant uniform")
        modules = {str(n.target): encode_module(str(n.target), module) for n in module.graph.nodes if n.op == "call_module"}
        acts = [path for path in modules if isinstance(module.get_submodule(path), ActPoint)]
        content = save(_tensors(module, acts), metadata={"format": "pt"})
        inputs = getattr(getattr(self.ctx, "teacher", None), "inputs", None)
        config = {
            "format": FORMAT,
            "sha256": hashlib.sha256(content).hexdigest(),
            "protocol": student.protocol,
            "inputs": {"shape": list(inputs.shape), "mean": list(inputs.mean), "std": list(inputs.std)} if inputs else None,
            "modules": dict(sorted(modules.items())),
            "activations": acts,
            "graph": encode_graph(module.graph),
            "manifest": dict(manifest),
        }
        text = json.dumps(config, sort_keys=True, allow_nan=False, separators=(",", ":"))
        return [write_atomic(folder / WEIGHTS, content), write_atomic(folder / CONFIG, text + "\n")]


def rebuild(config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> fx.GraphModule:
    """The saved network in eval mode, frozen, on ``device``.

    Raises:
        ValueError, TypeError, KeyError, RuntimeError: When the values do not describe a network; ``zsq.load`` reports them.
    """
    left = dict(tensors)
    root = nn.Module()
    for path, spec in sorted(config["modules"].items()):  # parents come before their children
        owner, name = _owner(root, path)
        owner.add_module(name, decode_module(spec))
    for path in [path for path in left if path.endswith(".weight.codes")]:
        _restore_weight(root.get_submodule(path.removesuffix(".weight.codes")), path.removesuffix(".codes"), left)
    ranges = left.pop("activations.range")
    if len(ranges) != len(config["activations"]):
        raise ValueError("ranges and activation points differ in number")
    for path, (lo, hi) in zip(config["activations"], ranges, strict=True):
        point = root.get_submodule(path)
        if not isinstance(point, ActPoint):
            raise TypeError(f"'{path}' is not an activation point")
        point.set_range(lo, hi)
        point.freeze()
    for name in ("activations.scale", "activations.zero_point"):  # for other readers: they follow from the ranges
        left.pop(name)
    known = {**dict(root.named_parameters()), **dict(root.named_buffers())}
    with torch.no_grad():
        for path, tensor in left.items():
            if path in known:
                if known[path].shape != tensor.shape:
                    raise ValueError(f"'{path}' has shape {tuple(tensor.shape)}, not {tuple(known[path].shape)}")
                known[path].copy_(tensor)
            else:
                owner, name = _owner(root, path)
                owner.register_buffer(name, tensor)
    missing = [path for path in known if path not in left and not _derived(root, path)]
    if missing:
        raise KeyError(f"'{missing[0]}' is missing")
    module = fx.GraphModule(root, decode_graph(config["graph"], root, device), "Student")
    return module.requires_grad_(False).eval().to(device)


def _tensors(module: fx.GraphModule, acts: list[str]) -> dict[str, Tensor]:
    """What ``model.safetensors`` holds."""
    points = [module.get_submodule(path) for path in acts]
    tensors: dict[str, Tensor] = {
        "activations.range": torch.tensor([[p.lo.item(), p.hi.item()] for p in points]).reshape(-1, 2),  # type: ignore[operator]
        "activations.scale": torch.tensor([p.scale.item() for p in points]),  # type: ignore[operator]
        "activations.zero_point": torch.tensor([p.zero_point.nan_to_num().item() for p in points]).int(),  # type: ignore[operator]
    }
    skip = {"num_batches_tracked"}
    for path, child in module.named_modules():
        if isinstance(child, (ActPoint, WeightPoint)):
            continue
        point = getattr(child, "weight_point", None)
        if isinstance(point, WeightPoint):
            tensors[f"{path}.weight.codes"] = pack(point.codes, point.bits)
            tensors[f"{path}.weight.scale"] = point.scale
            if not point.symmetric:
                tensors[f"{path}.weight.zero_point"] = point.zero_point.int()
        for name, tensor in (*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)):
            if name not in skip and not (name == "weight" and isinstance(point, WeightPoint)):
                tensors[f"{path}.{name}" if path else name] = tensor
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _restore_weight(layer: Any, name: str, left: dict[str, Tensor]) -> None:
    point: WeightPoint = layer.weight_point
    codes = unpack(left.pop(f"{name}.codes"), point.bits, tuple(layer.weight.shape), signed=point.symmetric)
    scale = left.pop(f"{name}.scale")
    zero = torch.zeros_like(scale) if point.symmetric else left.pop(f"{name}.zero_point").float()
    if scale.numel() != point.lo.numel() or zero.numel() != point.lo.numel() or scale.dtype != torch.float32:
        raise ValueError(f"'{name}' has scales of the wrong number or type")
    point.fix(codes, scale, zero)


def _derived(root: nn.Module, path: str) -> bool:
    """Whether a tensor of a fresh module is not saved: it follows from codes or ranges, or only counts."""
    owner, _, name = path.rpartition(".")
    module = root.get_submodule(owner)
    return (
        name == "num_batches_tracked"
        or isinstance(module, (ActPoint, WeightPoint))
        or (name == "weight" and hasattr(module, "weight_point"))
    )


def _owner(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that ``path`` lies in, made where there is none, and the last part of ``path``."""
    *parts, name = path.split(".")
    module = root
    for part in parts:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    return module, name
