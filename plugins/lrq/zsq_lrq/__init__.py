"""LRQ (Luo et al., Neural Networks 166, 2023, arXiv 2211.06816): long-range zero-shot generative quantization.

Light: descriptors and options only. Which images train the student, and what is read how, is in the README.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsq import Component, Options, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class DkdOptions(Options):
    alpha: float = opt(1.0, "Weight of the divergence of target class against all others (TCKD).", ge=0)
    beta: float = opt(8.0, "Weight of the divergence among the other classes (NCKD).", ge=0)
    temperature: float = opt(1.0, "Temperature of every softmax; the loss is multiplied by its square.", gt=0)
    warmup: int = opt(0, "Student steps over which the loss grows linearly to its full weight; 0 starts there.", ge=0)


@hookimpl
def zsq_losses() -> Iterator[Component]:
    yield Component(
        "dkd",
        "zsq_lrq.loss:Dkd",
        DkdOptions,
        "Decoupled knowledge distillation: the target class and the others weighed apart.",
        needs={"student.output", "teacher.output", "targets"},
        paper="CVPR 2022, arXiv 2203.08679",
    )
