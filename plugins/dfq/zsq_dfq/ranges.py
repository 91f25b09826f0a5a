"""The calibrator ``bn-range``: activation ranges from BatchNorm (paper, section 5)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from zsq.types import Batch, Beat, Context, Student, Trace
from zsq_dfq import BnRangeOptions
from zsq_dfq.graph import Graph
from zsq_dfq.moments import propagate


class BnRange:
    """``[min over channels of beta - n std, max of beta + n std]``, clipped where the network clips; without images."""

    def __init__(self, options: BnRangeOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    @torch.no_grad()
    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Set every range that BatchNorm determines; the others stay. Does not use the stream."""
        student.module.eval()
        graph = Graph(student, self.ctx)
        known = propagate(graph, self.ctx.teacher.inputs)
        unknown = []
        for node in graph.nodes:
            if node.op != "call_module" or node.target not in student.acts or node.target not in graph.once:
                continue
            point = student.acts[str(node.target)]
            if point.frozen:
                continue
            if node in known:
                lo, hi = known[node].ends(self.options.deviations)
                point.set_range(lo.min().float(), hi.max().float())
            else:
                unknown.append(str(node.target))
        if unknown:
            self.ctx.log(
                f"bn-range: BatchNorm does not determine the ranges of {', '.join(unknown)}; "
                "put another calibrator before it, e.g. --calib minmax"
            )
        yield Beat(1, 1)
