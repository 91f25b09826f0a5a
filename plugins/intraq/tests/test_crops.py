"""Crops of a whole batch at once: the same as one by one, with boxes as RandomResizedCrop draws them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from zsq_intraq.crops import ASPECT, Boxes, crop, draw


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_by_one(x: Tensor, boxes: Boxes) -> Tensor:
    """Cut, scale up, mirror: image by image."""
    out = []
    for image, top, left, height, width, mirrored in zip(
        x, *(v.long().tolist() for v in (boxes.top, boxes.left, boxes.height, boxes.width, boxes.mirrored)), strict=True
    ):
        part = image[None, :, top : top + height, left : left + width]
        part = F.interpolate(part, tuple(x.shape[-2:]), mode="bilinear", align_corners=False)
        out.append(part.flip(3) if mirrored else part)
    return torch.cat(out)


@given(seed=st.integers(0, 999), height=st.integers(1, 12), width=st.integers(1, 12), least=st.floats(0.05, 1))
@settings(max_examples=50, deadline=None)
def test_a_batch_at_once_is_what_a_loop_over_images_gives(seed: int, height: int, width: int, least: float) -> None:
    """Values of order 1: to 1e-5; also the gradient, weighed differently for every pixel."""
    x = torch.randn((5, 3, height, width), generator=rng(seed)).requires_grad_()
    boxes = draw(5, (height, width), least, rng(seed))
    ours, theirs = crop(x, boxes), one_by_one(x, boxes)
    assert torch.allclose(ours, theirs, atol=1e-5)
    weigh = torch.randn(ours.shape, generator=rng(1))
    assert torch.allclose(*(torch.autograd.grad((y * weigh).sum(), x)[0] for y in (ours, theirs)), atol=1e-4)


def test_gradient_reaches_what_a_box_holds_and_nothing_else() -> None:
    x = torch.randn((2, 1, 8, 8), generator=rng()).requires_grad_()
    boxes = Boxes(*(torch.tensor(v) for v in ([2.0, 0.0], [1.0, 3.0], [4.0, 8.0], [5.0, 5.0])), torch.tensor([True, False]))
    crop(x, boxes).sum().backward()
    inside = torch.zeros_like(x)
    inside[0, :, 2:6, 1:6] = inside[1, :, :, 3:] = 1
    assert torch.equal((x.grad > 0).float(), inside)


def test_whole_images_come_back_unchanged_and_in_channels_last() -> None:
    x = torch.randn((3, 3, 6, 6), generator=rng())
    zero, full = torch.zeros(3), torch.full((3,), 6.0)
    out = crop(x, Boxes(zero, zero, full, full, torch.tensor([False, True, False])))
    assert torch.allclose(out[::2], x[::2], atol=1e-6) and torch.allclose(out[1], x[1].flip(2), atol=1e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("least", [0.1, 0.5])
def test_boxes_are_those_of_random_resized_crop(least: float) -> None:
    """Inside, of an area and aspect in bounds to within rounding, everywhere, each image on its own, one in two mirrored."""
    n, size = 20_000, 32
    boxes = draw(n, (size, size), least, rng())
    for start, length in ((boxes.top, boxes.height), (boxes.left, boxes.width)):
        assert bool(((start >= 0) & (length >= 1) & (start + length <= size)).all())
        assert bool((start == start.round()).all() and (length == length.round()).all())
        room = size - length
        assert float((start[room > 0] / room[room > 0]).mean()) == pytest.approx(0.5, abs=0.02)
    placed = torch.stack([boxes.top / (size - boxes.height), boxes.left / (size - boxes.width), boxes.mirrored.float()])
    assert float((placed[:, (boxes.height < size) & (boxes.width < size)].corrcoef() - torch.eye(3)).abs().max()) < 0.05
    share = boxes.height * boxes.width / size**2
    assert float(share.min()) >= least - 0.05 and float(share.max()) == 1
    aspect = (boxes.width / boxes.height).log()
    assert float(aspect.abs().max()) < torch.log(torch.tensor(ASPECT[1])) + 0.15
    assert float(aspect.mean()) == pytest.approx(0, abs=0.01) and float(aspect.std()) > 0.1
    small = share < least + 0.3 * (1 - least)  # where all attempts fit, areas are even
    assert float(share[small].mean()) == pytest.approx(least + 0.15 * (1 - least), abs=0.02)
    assert float(boxes.mirrored.float().mean()) == pytest.approx(0.5, abs=0.02)
    assert len(torch.stack([boxes.top, boxes.left, boxes.height, boxes.width], 1).unique(dim=0)) > 500


def test_an_image_without_a_fitting_box_is_taken_whole() -> None:
    boxes = draw(50, (40, 4), 1.0, rng())
    assert bool((boxes.height == 40).all() and (boxes.width == 4).all() and (boxes.top == 0).all() and (boxes.left == 0).all())


def test_nothing_is_read_back_from_the_device() -> None:
    """On the device ``meta`` there is nothing to be read: any look at a value raises."""
    x = torch.randn((4, 3, 8, 8), device="meta")
    fields = [torch.empty(4, device="meta") for _ in range(4)]
    assert crop(x, Boxes(*fields, torch.empty(4, dtype=torch.bool, device="meta"))).shape == x.shape
