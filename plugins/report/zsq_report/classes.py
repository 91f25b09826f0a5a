"""Results on real images class by class, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Quantile of the normal distribution for a 95 % interval.
_Z = 1.96


@dataclass(frozen=True)
class Classes:
    """Top-1 in percent by class, and how often (right class, answer) came, of K classes; ``teacher`` is None if it was not asked.

    ``lost`` and ``won`` are images that only the teacher, or only the student, got right.
    """

    names: list[str]
    counts: NDArray[Any]
    student: NDArray[Any]
    teacher: NDArray[Any] | None
    confusion: NDArray[Any]
    lost: int = 0
    won: int = 0

    @property
    def drop_error(self) -> float | None:
        """Half the width of the 95 % interval of the drop in points: both networks saw the same images."""
        n = int(self.counts.sum())
        if self.teacher is None or not n:
            return None
        return 100 * _Z * math.sqrt(max(self.lost + self.won - (self.lost - self.won) ** 2 / n, 0.0)) / n

    def rows(self) -> list[dict[str, Any]]:
        """One per class, the largest drop first."""
        drops = [None if self.teacher is None else float(self.teacher[i] - self.student[i]) for i in range(len(self.names))]
        rows = []
        for i, name in enumerate(self.names):
            wrong = self.confusion[i].copy()
            wrong[i] = 0
            mistaken = f"{self.names[int(wrong.argmax())]} ({int(wrong.max())})" if wrong.max() > 0 else ""
            own = None if self.teacher is None else float(self.teacher[i])
            rows.append({"name": name, "count": int(self.counts[i]), "teacher": own, "student": float(self.student[i]),
                         "drop": drops[i], "mistaken": mistaken})  # fmt: skip
        return sorted(rows, key=lambda row: -(row["drop"] if row["drop"] is not None else 100 - row["student"]))


def classes(details: Mapping[str, Mapping[str, Mapping[str, Any]]], labels: Sequence[str], count: int) -> Classes | None:
    """From the answers of an evaluator that left them; None if none did."""
    for name, found in details.get("student", {}).items():
        if not {"answers", "labels"} <= found.keys():
            continue
        right, ours = np.asarray(found["labels"], dtype=np.int64), np.asarray(found["answers"], dtype=np.int64)
        theirs = details.get("teacher", {}).get(name, {}).get("answers")
        counts = np.bincount(right, minlength=count)
        confusion = np.bincount(right * count + ours, minlength=count * count).reshape(count, count)
        own = None if theirs is None else _accuracy(right, np.asarray(theirs), counts)
        mine, its = ours == right, ours == right if theirs is None else theirs == right
        lost, won = int((its & ~mine).sum()), int((mine & ~its).sum())
        return Classes(class_names(labels, count), counts, _accuracy(right, ours, counts), own, confusion, lost, won)
    return None


@dataclass(frozen=True)
class ByClass:
    """A metric of both networks, class by class, in percent; classes that lack it in one of them are left out."""

    metric: str
    names: list[str]
    teacher: NDArray[Any]
    student: NDArray[Any]

    def rows(self) -> list[dict[str, Any]]:
        """One per class, the largest drop first."""
        rows = [{"name": name, "teacher": float(a), "student": float(b), "drop": float(a - b)}
                for name, a, b in zip(self.names, self.teacher, self.student, strict=True)]  # fmt: skip
        return sorted(rows, key=lambda row: -row["drop"])


def by_class(details: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> ByClass | None:
    """From what evaluators left of the classes; None if none did."""
    for evaluator, found in details.get("student", {}).items():
        for metric, ours in found.get("by_class", {}).items():
            theirs = details.get("teacher", {}).get(evaluator, {}).get("by_class", {}).get(metric, {})
            names = [name for name, value in ours.items() if value is not None and theirs.get(name) is not None]
            if names:
                return ByClass(metric, names, np.array([theirs[name] for name in names]), np.array([ours[name] for name in names]))
    return None


def class_names(labels: Sequence[str], count: int) -> list[str]:
    """Names where all are known, else numbers."""
    return [str(label) for label in labels] if len(labels) == count else [str(i) for i in range(count)]


def wilson(percent: float, n: int) -> tuple[float, float] | None:
    """The 95 % interval of a share of ``n`` in percent (Wilson, 1927)."""
    if n < 1:
        return None
    p = percent / 100
    middle, half = p + _Z**2 / (2 * n), _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
    return 100 * max(0.0, (middle - half) / (1 + _Z**2 / n)), 100 * min(1.0, (middle + half) / (1 + _Z**2 / n))


def _accuracy(right: NDArray[Any], answers: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    hits = np.bincount(right[answers == right], minlength=len(counts))
    accuracy: NDArray[Any] = 100 * hits / np.maximum(counts, 1)
    return accuracy
