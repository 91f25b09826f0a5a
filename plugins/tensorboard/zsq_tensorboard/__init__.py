"""The log ``tensorboard``: shows a run in TensorBoard.

Light: descriptors only. The files are written in ``zsq_tensorboard.log``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsq import Component, Options, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class TensorBoardOptions(Options):
    ref: str = opt("", "Folder of the log; a file is added to it for every run.")
    every: int = opt(10, "Steps from one point of a curve to the next; the first and the last of a phase are always there.", ge=1)


@hookimpl
def zsq_logs() -> Iterator[Component]:
    yield Component(
        "tensorboard",
        "zsq_tensorboard.log:TensorBoard",
        TensorBoardOptions,
        "Curves of every phase, synthetic images and final metrics for TensorBoard: tensorboard:DIR.",
    )
