"""The attention block and its position in the generator."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zsq_gdfq.generator import Generator, ImageStack, Labels
from zsq_lrq.attention import LargeKernelAttention, LongRangeStack


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_parameter_counts_of_the_sheet() -> None:
    block = LargeKernelAttention(128)
    assert count(block.local, block.wide, block.mix) == 26_240
    assert count(block) == 59_264


@pytest.mark.parametrize(("kernel", "dilation", "field"), [(21, 3, 23), (9, 3, 11), (5, 2, 7)])
def test_receptive_field(kernel: int, dilation: int, field: int) -> None:
    """21 and 3: 5 + 18 = 23 pixels across, by the gradient of one pixel."""
    block, x = LargeKernelAttention(2, kernel, dilation), torch.randn(1, 2, 41, 41, requires_grad=True)
    (grad,) = torch.autograd.grad(block(x)[0, :, 20, 20].sum(), [x])
    touched = grad[0].abs().sum(0).nonzero()
    assert (touched.amax(0) - touched.amin(0) + 1).tolist() == [field, field]
    assert len(touched) == field**2


def test_dilated_convolution_keeps_the_size_with_padding_9() -> None:
    block = LargeKernelAttention(4)
    assert (block.local.kernel_size, block.local.padding, block.local.groups) == ((5, 5), (2, 2), 4)
    assert (block.wide.kernel_size, block.wide.padding, block.wide.dilation, block.wide.groups) == ((7, 7), (9, 9), (3, 3), 4)
    assert all(c.bias is not None and c.stride == (1, 1) for c in block.children())
    assert block(torch.randn(2, 4, 6, 10)).shape == (2, 4, 6, 10)


def test_attention_is_a_plain_product_with_a_residual() -> None:
    b, x = LargeKernelAttention(4), torch.randn(2, 4, 8, 8)
    g = F.gelu(F.conv2d(x, b.proj_in.weight, b.proj_in.bias))
    a = F.conv2d(g, b.local.weight, b.local.bias, padding=2, groups=4)
    a = F.conv2d(a, b.wide.weight, b.wide.bias, padding=9, dilation=3, groups=4)
    a = F.conv2d(a, b.mix.weight, b.mix.bias)
    assert torch.allclose(b(x), x + F.conv2d(g * a, b.proj_out.weight, b.proj_out.bias), atol=1e-6)


def stack(where: str, **options: Any) -> LongRangeStack:
    return LongRangeStack((3, 16, 16), 6, 4, 8, where=where, **options)


@pytest.mark.parametrize("where", ["upsampling", "block"])
def test_attention_stands_at_half_resolution_before_or_behind_the_first_block(where: str) -> None:
    """Never at full resolution, and never after the tanh."""
    s, order = stack(where), []
    for name in ("norm0", "conv1", "norm1", "attention", "conv2", "conv3"):
        s.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: order.append((name, tuple(inputs[0].shape[1:]))))
    s(torch.randn(4, 6), Labels.single(torch.arange(4)))
    names = [name for name, _ in order]
    expected = {"upsampling": ["norm0", "attention", "conv1", "norm1"], "block": ["norm0", "conv1", "norm1", "attention"]}[where]
    assert names == [*expected, "conv2", "conv3"]
    assert dict(order)["attention"] == (8, 8, 8)


@pytest.mark.parametrize("where", ["upsampling", "block", "none"])
def test_only_attention_is_added_to_the_published_generator(where: str) -> None:
    with torch.device("meta"):
        generator = Generator((3, 32, 32), 100, 10, stack=partial(LongRangeStack, where=where))
    assert count(generator) == 1_052_139 + (0 if where == "none" else 59_264)


def test_without_attention_it_is_gdfqs_stack() -> None:
    torch.manual_seed(0)
    theirs = ImageStack((3, 16, 16), 6, 4, 8)
    torch.manual_seed(0)
    ours, code, labels = stack("none"), torch.randn(4, 6), Labels.single(torch.arange(4))
    assert torch.equal(ours(code, labels), theirs(code, labels))


def test_inner_epsilon_stays() -> None:
    s = stack("block")
    assert (s.norm1.eps, s.norm2.eps) == (0.8, 0.8)
    conditional = stack("block", conditional=True)
    assert (conditional.norm1.eps, conditional.norm2.eps) == (0.8, 0.8)
