"""How diverse synthetic images are, measured on the teacher's features: the values of ``images`` in a report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from zsq.training import watching_inputs, watching_outputs
from zsq.types import Batch, Probe, Teacher


def diversity(batches: Iterable[Batch], teacher: Teacher, probe: Probe) -> dict[str, Any] | None:
    """How diverse images are; see :func:`figures` for the keys of the result.

    Features are the input of the teacher's head, or else the output of its last tap, averaged over positions. None if the teacher has
    neither.
    """
    if not (path := teacher.head or next(iter(teacher.taps[-1:]), "")):
        return None
    features: list[Tensor] = []
    answers: list[tuple[Tensor, Tensor]] = []
    watched = {path: teacher.module.get_submodule(path)}
    watching = watching_inputs if teacher.head else watching_outputs
    for batch in batches:
        with watching(watched, lambda _path, _module, x: features.append(_averaged(x.detach().float()))):
            view = probe(batch, {"teacher.output"})
        assert view.teacher is not None
        if (found := teacher.task.probabilities(view.teacher.output)) is not None:
            largest = found.detach().reshape(*found.shape[:2], -1).max(1)
            answers.append((largest.values.cpu(), largest.indices.cpu()))
    rows = torch.cat(features) if features else torch.empty(0)
    sure = torch.cat([probability for probability, _ in answers]) if answers else None
    classes = torch.cat([number for _, number in answers]) if answers else None
    if not len(rows) or (sure is not None and len(rows) != len(sure)):
        return None
    return {**figures(rows, sure, classes), "features": path}


def figures(features: Tensor, sure: Tensor | None = None, classes: Tensor | None = None) -> dict[str, Any]:
    """Figures of N images from their features (N, D), and the largest probability and its class at each place, (N, places) both; one
    place where an image has one class, None if classes do not exclude each other.

    ``class_entropy`` is that of the histogram of classes over images and places, in nats, log K at most. ``confidence`` is the mean
    largest probability. These and ``classes``, the number of those seen, are None if there are no probabilities.
    ``cosine_distance`` is the mean distance (1 - cosine) of two images, where each has one class of two of the same class, averaged
    over the classes that have two; None if there are no two.
    ``effective_rank`` is exp of the entropy of the eigenvalues of the features' covariance, normalised to sum 1 (Roy and Vetterli,
    EUSIPCO 2007); 0 where all images are the same.
    """
    features = features.double().cpu()
    told: dict[str, Any] = {"classes": None, "class_entropy": None, "confidence": None}
    group = torch.zeros(len(features), dtype=torch.long)
    if sure is not None and classes is not None:
        classes = classes.long()
        seen = torch.bincount(classes.flatten()).double()
        told = {"classes": int((seen > 0).sum()), "class_entropy": round(_entropy(seen), 4), "confidence": _number(sure.double().mean())}
        group = classes[:, 0] if classes.shape[1] == 1 else group
    counts = torch.bincount(group).double()
    unit = torch.nn.functional.normalize(features, dim=1)
    sums = torch.zeros((len(counts), features.shape[1]), dtype=features.dtype).index_add_(0, group, unit)
    several = counts > 1
    n = counts[several]
    within = 1 - (sums[several].square().sum(1) - _lengths(unit, group, len(counts))[several]) / (n * (n - 1))
    spectrum = torch.linalg.svdvals(features - features.mean(0)).square()
    return {
        "count": len(features),
        **told,
        "cosine_distance": _number(within.mean()) if len(n) else None,
        "effective_rank": round(math.exp(_entropy(spectrum)), 4) if float(spectrum.sum()) > 1e-20 else 0.0,
    }


def _averaged(x: Tensor) -> Tensor:
    """(N, D) of (N, D, places...)."""
    return x.flatten(2).mean(2) if x.dim() > 2 else x


def _lengths(unit: Tensor, classes: Tensor, count: int) -> Tensor:
    """Sum of the squared lengths of each class's vectors: their number, but for vectors that are zero."""
    return torch.zeros(count, dtype=unit.dtype).index_add_(0, classes, unit.square().sum(1))


def _entropy(weights: Tensor) -> float:
    share = weights / weights.sum()
    return float(torch.special.entr(share).sum())


def _number(value: Tensor) -> float:
    return round(float(value), 4)
