"""Networks with random weights that behave like trained ones, and repositories of them on the loopback Hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loopback import Loopback, Repo
from safetensors.torch import save, save_file
from torch import Tensor, nn

from zsq.images import from_uint8, patterns
from zsq.types import InputSpec

CLASSES = 8
SPEC = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def photos(size: int, count: int, seed: int = 0) -> tuple[Any, Any]:
    """Pixels (count, size, size, 3) uint8 and labels: one pattern per class, each image with noise of its own over it."""
    spec = InputSpec((3, size, size), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    labels = torch.arange(count) % CLASSES
    colours = torch.stack([labels // 4, labels // 2 % 2, labels % 2], 1).view(-1, 3, 1, 1) * 0.3 - 0.15  # the corners of a cube
    noise = torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(seed)) * 0.004
    pixels = (0.5 + colours + (patterns(spec, CLASSES, seed=1)[labels] - 0.5) + noise).clamp(0, 1) * 255
    return pixels.round().byte().permute(0, 2, 3, 1).numpy(), labels.numpy()


def save_photos(file: Path, size: int, count: int) -> Path:
    """``photos`` that no network was fitted to, as an ``.npz``."""
    pixels, labels = photos(size, count, seed=99)
    np.savez(file, images=pixels, labels=labels)
    return file


@torch.no_grad()
def settled(module: nn.Module, size: int, seed: int = 0, count: int = 4 * CLASSES) -> nn.Module:
    """``module`` as after training: BatchNorm with scales, shifts and statistics, and a head that tells the classes of ``photos`` apart.

    A network that is sure of nothing cannot be verified: one code at the edge, rounded the other way, changes many codes of the
    layers behind it. So everything but the head is random, and the head is the ridge regression of the classes.
    """
    rng = torch.Generator().manual_seed(seed)
    pixels, labels = photos(size, count)
    inputs = from_uint8(pixels, InputSpec((3, size, size), tuple(SPEC["mean"]), tuple(SPEC["std"])))
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    module.eval().requires_grad_(False)
    for layer in (m for m in module.modules() if isinstance(m, nn.Conv2d)):
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=rng) * (2 / layer.weight[0].numel()) ** 0.5)
    for norm in norms:
        norm.weight.copy_(torch.rand(norm.num_features, generator=rng) * 0.4 + 0.3)
        norm.bias.copy_(torch.randn(norm.num_features, generator=rng) * 0.1 + 0.5)
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    module(inputs)
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
    head = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and m.weight.shape[0] == CLASSES][-1]
    seen: list[Tensor] = []
    handle = head.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    module(inputs)
    handle.remove()
    features = seen[0].flatten(2).mean(2) if seen[0].dim() == 4 else seen[0]
    centred = features - features.mean(0)
    targets = 4 * nn.functional.one_hot(torch.as_tensor(labels), CLASSES).float()
    gram = centred @ centred.T
    solved = torch.linalg.solve(gram + 0.01 * gram.diagonal().mean() * torch.eye(count), targets - targets.mean(0))
    weight = (centred.T @ solved).T
    head.weight.copy_(weight.view_as(head.weight))
    assert head.bias is not None
    head.bias.copy_(targets.mean(0) - weight @ features.mean(0))
    return module


def checkpoint(module: nn.Module, file: Path) -> Path:
    """The network's tensors as a safetensors file."""
    save_file(_tensors(module), file)
    return file


def publish(hub: Loopback, name: str, files: dict[str, bytes | dict[str, Any]]) -> str:
    """A repository on the loopback Hub; its commit."""
    contents = {path: json.dumps(content).encode() if isinstance(content, dict) else content for path, content in files.items()}
    for content in contents.values():
        hub.objects[hashlib.sha256(content).hexdigest()] = content
    hub.repos.setdefault(name, Repo())
    return hub.repos[name].commit(contents)


def timm_files(module: nn.Module, architecture: str, size: int) -> dict[str, bytes | dict[str, Any]]:
    """What timm writes for a network."""
    preset = {"input_size": [3, size, size], "crop_pct": 0.95, "interpolation": "bicubic", **SPEC, "num_classes": CLASSES}
    names = [f"n{i:08d}" for i in range(CLASSES)]
    config = {"architecture": architecture, "num_classes": CLASSES, "label_names": names, "pretrained_cfg": preset}
    return {"config.json": config, "model.safetensors": save(_tensors(module))}


def transformers_files(module: Any, folder: Path, size: int) -> dict[str, bytes | dict[str, Any]]:
    """What transformers writes for a network, and for its preprocessing."""
    module.save_pretrained(folder)
    files: dict[str, bytes | dict[str, Any]] = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    preprocessing = {"do_normalize": True, "do_resize": True, "size": size, "image_mean": SPEC["mean"], "image_std": SPEC["std"]}
    return files | {"preprocessor_config.json": preprocessing}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


class SqueezeNextBlock(nn.Module):
    """Two 1x1 convolutions that squeeze, a 3x1 and a 1x3 one, a 1x1 one that expands, and a shortcut; BatchNorm and ReLU after each."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        half, quarter = inside // 2, inside // 4
        shapes = [(inside, half, (1, 1), stride), (half, quarter, (1, 1), 1), (quarter, half, (3, 1), 1), (half, half, (1, 3), 1)]
        self.steps = nn.Sequential(*(_step(*shape) for shape in [*shapes, (half, outside, (1, 1), 1)]))
        self.shortcut = nn.Identity() if stride == 1 and inside == outside else _step(inside, outside, (1, 1), stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.steps(x) + self.shortcut(x))


class SqueezeNext(nn.Module):
    """A small network of such blocks."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(_step(3, 32, (5, 5), 2), nn.MaxPool2d(3, 2))
        self.blocks = nn.Sequential(*(SqueezeNextBlock(*shape) for shape in [(32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)]))
        self.last, self.fc = _step(128, 64, (1, 1), 1), nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(nn.functional.adaptive_avg_pool2d(self.last(self.blocks(self.stem(x))), 1).flatten(1))
        return found


def _step(inside: int, outside: int, kernel: tuple[int, int], stride: int) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(nn.Conv2d(inside, outside, kernel, stride, padding, bias=False), nn.BatchNorm2d(outside), nn.ReLU())
