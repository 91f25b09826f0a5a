"""Calibrator ``clip-search``: activation ranges that keep the student's output near the teacher's, one site after another."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from zsq._builtin.options import ClipSearchOptions
from zsq.graph import PartialRun
from zsq.training import Extremes, act_modules, sum_of, watching_inputs
from zsq.types import Batch, Beat, Context, Student, Trace


class ClipSearch:
    """Per activation site, in the order of execution, the clip value with the smallest mean squared error of the logits.

    Candidates are shares of the range that the site already has (or of the extremes seen, where it has none). Sites before
    it are on the grids just chosen, sites after it on those they had before; the layers before a site run once for all of
    its candidates. Float32 forwards.
    """

    def __init__(self, options: ClipSearchOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    @torch.no_grad()
    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Search site after site; closed early, the sites not reached keep the range they had, or that of the images."""
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
        """Ranges for the sites that have none: the extremes of the images, sites in float."""
        open_ = {path: point for path, point in act_modules(student).items() if not student.acts[path].ranged}
        trackers = {path: Extremes() for path in open_}
        if open_:
            with watching_inputs(open_, lambda path, _point, x: trackers[path].update(x)):
                student.module(inputs)
            for path in open_:
                student.acts[path].set_range(*trackers[path].read())
