"""How different the synthetic images are, as the teacher sees them: figures for ``images`` of the report."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zsq.run.probe import Probe, watching_inputs
from zsq.run.stream import Stream
from zsq.types import Batch, Teacher

#: Images that are looked at, and how many of those above 64 x 64 pixels.
COUNT, LARGE = 512, 64


def diversity(stream: Stream, teacher: Teacher, probe: Probe) -> dict[str, Any] | None:
    """Figures of images as the student last got them: from the pool where there is one, else drawn anew batch by batch.

    Features are what enters the teacher's head, averaged over positions where there are any. None where the teacher's head is
    not known, or where its answers are not one row of logits per image.
    """
    if not teacher.head:
        return None
    shape = teacher.inputs.shape
    count = COUNT if shape[-1] * shape[-2] <= 64 * 64 else LARGE
    features: list[Tensor] = []
    answers: list[Tensor] = []
    head = {teacher.head: teacher.module.get_submodule(teacher.head)}
    for batch in _batches(stream, count):
        with watching_inputs(head, lambda _path, _module, x: features.append(x.detach().float())):
            view = probe(batch, {"teacher.output"})
        assert view.teacher is not None
        answers.append(teacher.task.logits(view.teacher.output).detach().float())
    if not features or any(x.dim() != 2 for x in answers):
        return None
    rows, logits = torch.cat([x.flatten(2).mean(2) if x.dim() > 2 else x for x in features]), torch.cat(answers)
    return figures(rows, logits) if len(rows) == len(logits) else None


def figures(features: Tensor, logits: Tensor) -> dict[str, Any]:
    """Figures of N images from their features (N, D) and the teacher's logits (N, K); the class of an image is its answer.

    ``class_entropy`` is that of the histogram of classes, in nats, log K at most. ``confidence`` is the mean largest
    probability. ``cosine_distance`` is the mean distance (1 - cosine) of two images of the same class, averaged over the
    classes that have two; None where none has. ``effective_rank`` is exp of the entropy of the eigenvalues of the features'
    covariance, normalised to sum 1 (Roy and Vetterli, EUSIPCO 2007); 0 where all images are the same.
    """
    features, logits = features.double().cpu(), logits.double().cpu()
    confidence, classes = logits.softmax(1).max(1)
    counts = torch.bincount(classes, minlength=logits.shape[1]).double()
    unit = torch.nn.functional.normalize(features, dim=1)
    sums = torch.zeros((len(counts), features.shape[1]), dtype=features.dtype).index_add_(0, classes, unit)
    several = counts > 1
    n = counts[several]
    within = 1 - (sums[several].square().sum(1) - _lengths(unit, classes, len(counts))[several]) / (n * (n - 1))
    spectrum = torch.linalg.svdvals(features - features.mean(0)).square()
    return {
        "count": len(features),
        "classes": int((counts > 0).sum()),
        "class_entropy": round(_entropy(counts), 4),
        "confidence": _number(confidence.mean()),
        "cosine_distance": _number(within.mean()) if len(n) else None,
        "effective_rank": round(math.exp(_entropy(spectrum)), 4) if float(spectrum.sum()) > 1e-20 else 0.0,
    }


def _batches(stream: Stream, count: int) -> list[Batch]:
    size = stream.batch_size
    pool = getattr(stream.synth, "pool", None)
    if pool is None or not len(pool):
        return [stream.sample(min(size, count - first)) for first in range(0, count, size)]
    inputs = stream.sample(min(count, len(pool))).inputs  # in one draw, so that no image comes twice
    return [Batch(part) for part in torch.split(inputs, size)]


def _lengths(unit: Tensor, classes: Tensor, count: int) -> Tensor:
    """Sum of the squared lengths of each class's vectors: their number, but for vectors that are zero."""
    return torch.zeros(count, dtype=unit.dtype).index_add_(0, classes, unit.square().sum(1))


def _entropy(weights: Tensor) -> float:
    share = weights / weights.sum()
    return float(torch.special.entr(share).sum())


def _number(value: Tensor) -> float:
    return round(float(value), 4)
