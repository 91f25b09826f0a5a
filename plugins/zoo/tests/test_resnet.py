"""The CIFAR ResNets: sizes, names and shortcuts as published, so that public weights files load and give the same outputs."""

from __future__ import annotations

import pytest
import torch
from zsq_zoo import resnet


@pytest.mark.parametrize(
    ("name", "depth", "parameters"),
    [("resnet20", 20, 269_722), ("resnet32", 32, 464_154), ("resnet44", 44, 658_586), ("resnet56", 56, 853_018)],
)
def test_depth_and_parameters(name: str, depth: int, parameters: int) -> None:
    """0.27, 0.46, 0.66 and 0.85 M parameters (He et al., table 6); option B shortcuts would add 2,752 of them."""
    network = getattr(resnet, name)()
    layers = [m for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) == depth
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_public_names() -> None:
    names = dict(resnet.resnet20().named_parameters())
    blocks = [f"layer{stage}.{i}.{part}" for stage in (1, 2, 3) for i in range(3) for part in ("conv1", "bn1", "conv2", "bn2")]
    modules = {"conv1", "bn1", *blocks, "linear"}
    assert {name.rpartition(".")[0] for name in names} == modules
    assert names["conv1.weight"].shape == (16, 3, 3, 3) and names["layer3.0.conv1.weight"].shape == (64, 32, 3, 3)


def test_option_a_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    block = resnet.Block(4, 8, 2).eval()
    with torch.no_grad():
        block.bn2.weight.zero_()  # leaves the shortcut alone; the last ReLU passes positive images
        image = torch.rand(1, 4, 6, 6)
        result = block(image)
    assert torch.equal(result[:, 2:6], image[:, :, ::2, ::2])
    assert not result[:, :2].any() and not result[:, 6:].any()


@pytest.mark.parametrize("classes", [10, 100])
def test_forward(classes: int) -> None:
    assert resnet.resnet20(classes).eval()(torch.randn(2, 3, 32, 32)).shape == (2, classes)
