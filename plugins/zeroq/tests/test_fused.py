"""RecordedNetwork networks: the same output, statistics and pixel gradient as by ordinary means, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zsq_zeroq.fused import RecordedNetwork, input_statistics

from zsq.testing import teachers
from zsq.testing.world import changed, module_state


class OwnNorm(nn.BatchNorm2d):
    """A layer with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Odd(nn.Module):
    """BatchNorm before convolutions, behind nothing, without parameters, over vectors; one whose output nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, bias=False)
        self.bare, self.own = nn.BatchNorm2d(6, affine=False), OwnNorm(6)
        self.vector, self.idle, self.unused = nn.BatchNorm1d(6), nn.BatchNorm2d(6), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.first(x) + x)
        self.idle(x)
        x = self.own(F.relu(self.bare(x)) + x)
        return self.vector(x.mean((2, 3)))


def network(build: Any) -> nn.Module:
    torch.manual_seed(0)
    module = build()
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.2, 2)
            if norm.affine:
                norm.weight.data.normal_()
    return module.eval().requires_grad_(False)


def plainly(module: nn.Module, x: Tensor, per_image: bool) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Output and, by layer, mean and biased variance, by hooks and elementary operations."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(path: str) -> Any:
        def watch(_: nn.Module, inputs: Any) -> None:
            values = inputs[0].flatten(2) if inputs[0].dim() > 2 else inputs[0][..., None]
            over = (2,) if per_image else (0, 2)
            mean = values.mean(over, keepdim=True)
            seen[path] = mean.squeeze(over), (values - mean).square().mean(over)

        return watch

    handles = [m.register_forward_pre_hook(hook(p)) for p, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    output = module(x)
    for handle in handles:
        handle.remove()
    return output, seen


def gradient(x: Tensor, output: Tensor, means: list[Tensor], variances: list[Tensor]) -> Tensor:
    """Of a scalar that weighs every output and statistic differently."""
    rng = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=x.dtype)
    for value in (output, *means, *variances):
        total = total + (value * torch.randn(value.shape, generator=rng, dtype=torch.float64).to(value.dtype)).sum()
    return torch.autograd.grad(total, x)[0]


def pixels(shape: tuple[int, ...]) -> Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    return noise.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("build", [teachers.tiny, Odd])
@pytest.mark.parametrize("per_image", [False, True])
def test_output_statistics_and_gradient_are_the_plain_ones(build: Any, per_image: bool) -> None:
    """Against float64 by elementary operations."""
    module = network(build)
    x = pixels((5, 3, 8, 8))
    output, seen = RecordedNetwork(module, per_image)(x)
    x64 = x.detach().double().requires_grad_()
    expected, stats = plainly(network(build).double(), x64, per_image)
    assert torch.allclose(output.double(), expected, atol=1e-5)
    assert seen.layers == list(stats)
    sizes = [len(module.get_submodule(path).running_mean) for path in seen.layers]
    means, variances = list(seen.mean.split(sizes, -1)), list(seen.var.split(sizes, -1))
    for path, mean, var in zip(seen.layers, means, variances, strict=True):
        assert torch.allclose(mean.double(), stats[path][0], atol=1e-5) and torch.allclose(
            var.double(), stats[path][1], rtol=1e-4, atol=1e-5
        )
    ours = gradient(x, output, means, variances)
    theirs = gradient(x64, expected, [m for m, _ in stats.values()], [v for _, v in stats.values()])
    assert torch.allclose(ours.double(), theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("per_image", [False, True])
def test_gradient_in_bf16_is_that_of_the_chain_that_autograd_builds(per_image: bool) -> None:
    x = pixels((16, 3, 8, 8))
    module = network(teachers.tiny)
    with torch.autocast("cpu", torch.bfloat16):
        output, seen = RecordedNetwork(module, per_image)(x)
    ours = gradient(x, output.float(), [seen.mean], [seen.var])
    assert seen.mean.dtype == seen.var.dtype == torch.float32
    expected, stats = plainly(module, x, per_image)
    exact = gradient(x, expected, [torch.cat([m for m, _ in stats.values()], -1)], [torch.cat([v for _, v in stats.values()], -1)])
    assert (ours - exact).norm() < 0.03 * exact.norm()


@given(n=st.integers(1, 4), channels=st.integers(1, 70), height=st.integers(1, 5), width=st.integers(1, 5), per_image=st.booleans())
@settings(max_examples=30, deadline=None)
def test_any_shape(n: int, channels: int, height: int, width: int, per_image: bool) -> None:
    x = pixels((n, channels, height, width))
    norm = network(lambda: nn.Sequential(nn.BatchNorm2d(channels)))
    output, seen = RecordedNetwork(norm, per_image)(x)
    expected, stats = plainly(norm, x, per_image)
    assert seen.counts == [height * width * (1 if per_image else n)]
    ours = gradient(x, output, [seen.mean], [seen.var])
    theirs = gradient(x, expected, [stats["0"][0]], [stats["0"][1]])
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_statistics_of_images_alone() -> None:
    x = pixels((4, 3, 6, 6))
    seen = input_statistics(x, True)
    assert torch.allclose(seen.mean, x.mean((2, 3)), atol=1e-6)
    seen.var.square().sum().backward()
    ours, x.grad = x.grad, None
    x.var((2, 3), correction=0).square().sum().backward()
    assert torch.allclose(ours, x.grad, atol=1e-6)


def test_the_network_is_left_as_it_was_also_when_it_fails() -> None:
    module = network(Odd)
    before = module_state(module)
    watched = RecordedNetwork(module, False)
    watched(pixels((2, 3, 8, 8)))
    assert not changed(before, module_state(module)) and not any("forward" in vars(m) for m in module.modules())
    with pytest.raises(RuntimeError):
        watched(pixels((2, 4, 8, 8)))
    assert not changed(before, module_state(module)) and not any("forward" in vars(m) for m in module.modules())
    output, seen = watched(pixels((2, 3, 8, 8)))  # and works again
    assert output.shape == (2, 6) and len(seen.layers) == 5
