"""Writes the files of a student from its network and rebuilds the network from them (docs/format.md).

The network is built again without the teacher's code, and nothing in the files is executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as dump
from torch import Tensor, fx, nn

from zsq.errors import ZsqError
from zsq.files import write_atomic
from zsq.format._dry_run import try_on
from zsq.format._encoding import decode_graph, encode_graph, path_of
from zsq.format._files import CONFIG, FORMAT, WEIGHTS, text_of
from zsq.format._layout import Parts, describe, join
from zsq.format._specs import decode_module, encode_module, sizes
from zsq.grids import QuantLayer
from zsq.placement import use_integers
from zsq.types import InputSpec, Student


def save(student: Student, manifest: Mapping[str, Any], folder: Path, inputs: InputSpec | None = None) -> list[Path]:
    """Write ``model.safetensors`` (packed codes, scales, zero points) and ``config.json`` (the network as plain values); their paths.

    Same student, same bytes.

    Args:
        student: Its module is a graph of known modules.
        manifest: Plain values that come along in the configuration.
        folder: Where to.
        inputs: What the student takes.

    Raises:
        ZsqError: If the student is not a graph of known modules, or the disk refuses.
    """
    module = student.module
    if not isinstance(module, fx.GraphModule):
        raise ZsqError(f"cannot save a {type(module).__name__}: not a graph", "exporter safetensors", "use --quant uniform")
    nodes = module.graph.nodes
    modules = {str(n.target): encode_module(str(n.target), module) for n in nodes if n.op == "call_module"}
    loose = _loose(module, {str(n.target) for n in nodes if n.op == "get_attr"}, modules)
    content = dump(join(module, modules, loose))
    config = {
        "format": FORMAT,
        "sha256": hashlib.sha256(content).hexdigest(),
        "scheme": student.scheme,
        "integers": computes_in_integers(module),
        "inputs": {"shape": list(inputs.shape), "mean": list(inputs.mean), "std": list(inputs.std)} if inputs else None,
        "modules": modules,
        "tensors": describe(loose),
        "graph": encode_graph(module.graph),
        "manifest": dict(manifest),
    }
    return [write_atomic(folder / WEIGHTS, content), write_atomic(folder / CONFIG, text_of(config))]


def rebuild(config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> fx.GraphModule:
    """The saved network in eval mode, frozen, on ``device``.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, RuntimeError: If the values do not describe a network; ``zsq.load`` reports them.
    """
    modules, loose = config["modules"], config["tensors"]
    parts = Parts(tensors, modules, loose)
    root = nn.Module()
    for path in sorted(modules):  # parents come before their children
        owner, name = _owner(root, path_of(path))
        owner.add_module(name, decode_module(modules[path]))
    for path in loose:
        _owner(root, path_of(path))
    parts.fill(root)
    root.requires_grad_(False).eval()
    module = fx.GraphModule(root, decode_graph(config["graph"], root, torch.device("cpu")), "Student")
    if config["inputs"] is not None:
        try_on(module, tuple(config["inputs"]["shape"]))
    if device.type != "cpu":
        module = fx.GraphModule(root, decode_graph(config["graph"], root, device), "Student")
    if config["integers"]:
        use_integers(module)
    if config["integers"] != computes_in_integers(module):
        raise ValueError("no layer of it can compute in integers")
    return module.eval().to(device)


def computes_in_integers(module: nn.Module) -> bool:
    return any(isinstance(layer, QuantLayer) and layer.integers is not None for layer in module.modules())


def _loose(module: nn.Module, names: set[str], modules: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among ``names`` that are not saved with a module of ``modules``, on the CPU."""
    known = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    saved = {f"{path}.{name}" for path, spec in modules.items() for name in ("weight", *dict(sizes(spec).values))}
    return {name: known[name].detach().cpu() for name in sorted(names - saved)}


def _owner(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that contains ``path``, created if missing, and the last part of ``path``."""
    *parts, name = path.split(".")
    module = root
    for part in parts:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module, name
