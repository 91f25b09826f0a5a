"""Measures how much images of one class differ: the teacher's features, and their distance from the mean of the class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsq.errors import ZsqError
from zsq.training import watching_inputs
from zsq.types import Precision, Teacher


def head(teacher: Teacher) -> dict[str, nn.Module]:
    """The teacher's last layer by its path.

    Raises:
        ZsqError: If the teacher does not say which one it is.
    """
    if not teacher.head:
        what = "the teacher's last layer is not known, so there are no features"
        raise ZsqError(what, f"teacher '{teacher.ref}'", "--set synth.mdc_weight=0 needs no features")
    return {teacher.head: teacher.module.get_submodule(teacher.head)}


@contextmanager
def catching_features(teacher: Teacher) -> Iterator[list[Tensor]]:
    """Inside, every forward appends the input of the teacher's last layer to the list: (N, F), float32, with its graph."""
    caught: list[Tensor] = []
    with watching_inputs(head(teacher), lambda _path, _module, x: caught.append(x.flatten(1).float())):
        yield caught


@torch.no_grad()
def features(teacher: Teacher, images: Tensor, precision: Precision, batch: int = 256) -> Tensor:
    """Features of ``images`` (N, C, H, W): the input of the teacher's last layer, (N, F), ``batch`` images at a time."""
    with precision.autocast(), catching_features(teacher) as caught:
        for part in torch.split(images, batch):
            teacher.module(part)
    return torch.cat(caught)


def intra_class_distance(features: Tensor, targets: Tensor) -> Tensor:
    """Mean over images of 1 - cos(feature, mean feature of its class), a scalar; classes with one image are left out.

    ``features`` (N, F), ``targets`` (N,). The paper's table 5 has 0.44 for real images of ImageNet, 0.42 for IntraQ's and 0.17 for
    ZeroQ's with a class term; we infer that its distance is to the mean, as in L_MDC. NaN where every class has one image.
    """
    one_hot = F.one_hot(targets).to(features.dtype)
    several = (one_hot.sum(0) > 1)[targets]
    cosine = F.cosine_similarity(features, (one_hot.T @ features)[targets], 1)  # the sum has the direction of the mean
    return (1 - cosine)[several].mean()
