"""Calibrator ``clip-search``: chooses the activation range of one site after another by the error of the student's output."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from zsq._builtin.options import ClipSearchOptions
from zsq.graph import PartialRun
from zsq.training import Extremes, act_modules, sum_of, watching_inputs
from zsq.types import Batch, Beat, Context, Student, Trace


class ClipSearch:
    """For each activation site, in the order of execution, the clip value with the smallest mean squared error of the logits.

    Candidates are shares of the range that the site already has (or of its minimum and maximum, if it has none). Earlier sites use the
    ranges just chosen, later sites their old ranges. The part of the network before a site runs once for all its candidates. Float32.
    """

    def __init__(self, options: ClipSearchOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    @torch.no_grad()
    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Search site after site. If closed early, the other sites keep their range, or get minimum and maximum of the images."""
        o = self.options
        images: list[Tensor] = []
        while sum(map(len, images)) < o.images:
            images.append(next(stream)[0].inputs)
        inputs = torch.cat(images)[: o.images].contiguous(memory_format=torch.channels_last)
        module = student.module.eval()
        assert isinstance(module, fx.GraphModule)
        task, teacher = self.ctx.teacher.task, self.ctx.teacher.module
        goal = [value.float() for value in task.values(teacher(inputs))]
        self._start(student, inputs)
        total = o.passes * len(student.acts)
        step = 0
        for _ in range(o.passes):
            partial = PartialRun(module, inputs)
            for node in [n for n in module.graph.nodes if n.op == "call_module" and n.target in student.acts]:
                point = student.acts[str(node.target)]
                partial.advance(node)
                if not point.frozen:
                    lo, hi = (end.clone() for end in point.range)
                    errors = []
                    shares = torch.linspace(o.narrowest, 1, o.candidates).tolist()
                    for share in shares:
                        point.set_range(lo * share, hi * share)
                        given = zip(task.values(partial.finish()), goal, strict=True)
                        errors.append(sum_of((value.float() - wanted).square().mean() for value, wanted in given))
                    best = shares[int(torch.stack(errors).argmin())]
                    point.set_range(lo * best, hi * best)
                step += 1
                yield Beat(min(step, total), total)

    def _start(self, student: Student, inputs: Tensor) -> None:
        """Ranges for sites without one: minimum and maximum of the images, with all sites in float."""
        open_ = {path: point for path, point in act_modules(student).items() if not student.acts[path].ranged}
        trackers = {path: Extremes() for path in open_}
        if open_:
            with watching_inputs(open_, lambda path, _point, x: trackers[path].update(x)):
                student.module(inputs)
            for path in open_:
                student.acts[path].set_range(*trackers[path].read())
