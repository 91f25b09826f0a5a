"""ABN: corrects the student's BatchNorm statistics for the shift that quantization causes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsq.errors import ZsqError
from zsq.protocols import Classed, Stream
from zsq.training import BnsDistance, Probe, batch_norms, channel_stats, watching_inputs
from zsq.types import Batch, Beat, BnStats, Context, Precision, Student, Trace, View
from zsq_aac import AbnOptions
from zsq_aac.images import PixelPool

#: Keeps the ratio of two variances finite where a channel is constant.
_TINY = 1e-12

#: Called for every layer with the statistics of its input: path, layer, mean, biased variance, number of values.
Visit = Callable[[str, Any, Tensor, Tensor, int], None]


class Abn:
    """Adaptive BatchNorm, without gradients: only running means and variances change; ``num_batches_tracked`` stays.

    Mode ``shift`` adds the difference between student and teacher *on the same images*, so it depends little on how these images
    differ from real ones. Mode ``ema`` replaces the statistics; this works only with images that have the teacher's statistics.
    One forward corrects all layers in the order of execution, each just before it normalises, so later layers see corrected inputs.
    """

    def __init__(self, options: AbnOptions, ctx: Context) -> None:
        self.options, self.ctx, self.bns_distance = options, ctx, BnsDistance()
        self.pool: PixelPool | None = None
        self._parts: list[Tensor] = []
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self._loaded: Mapping[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The resumable state: images, and the student's statistics before the first correction. Corrections are quick and are repeated."""
        return {"pool": self.pool and self.pool.state_dict(), "parts": self._parts, "before": self._before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self._loaded = state
        self._parts = [part.to(self.ctx.device) for part in state["parts"]]

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Collect images, then correct. Closed before the images are complete, it leaves the student unchanged.

        Raises:
            ZsqError: If the student has no BatchNorm layer of the teacher.
        """
        o = self.options
        norms = corresponding_norms(student, self.ctx)
        student.module.eval()
        passes = o.passes if o.mode == "ema" else 1
        if self._loaded is not None:
            for path, (mean, var) in self._loaded["before"].items():
                norms[path].running_mean.copy_(mean)
                norms[path].running_var.copy_(var)
        if o.source == "bns":
            pool = self.pool = PixelPool(o, self.ctx, self.loss)
            if self._loaded is not None:
                pool.load_state_dict(self._loaded["pool"])
            total = pool.total + passes * len(pool.sizes)
            for metrics in pool.make_all():
                yield Beat(pool.step, total, metrics)
            step, parts = pool.step, list(torch.split(pool.inputs, pool.sizes))
        else:
            parts, count = self._parts, -(-o.images // (stream.batch_size if isinstance(stream, Stream) else o.batch))
            total = count + passes * count
            for batch, _ in islice(stream, count - len(parts)):
                parts.append(batch.inputs)
                yield Beat(len(parts), total)
            step = len(parts)
        self._before = {path: (norm.running_mean.clone(), norm.running_var.clone()) for path, norm in norms.items()}
        correct = self.ema if o.mode == "ema" else self.shift
        for _ in correct(student, norms, parts * passes):
            step += 1
            yield Beat(step, total)

    def loss(self, view: View, step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """L_BNS + ce_weight * CE; L_BNS alone if the task gives images no class."""
        assert view.teacher is not None and view.batch.targets is not None
        loss = self.bns_distance(view.teacher.bn)
        shown = {"bns": loss.detach()}
        if self.options.ce_weight and isinstance(view.task, Classed):
            loss = loss + self.options.ce_weight * F.cross_entropy(view.task.logits(view.teacher.output), view.batch.targets)
        return loss, shown

    def shift(self, student: Student, norms: Mapping[str, Any], parts: list[Tensor]) -> Iterator[None]:
        """running_mean += mean_q - mean_fp; running_var *= var_q / var_fp within [1 / limit, limit]; averaged over the parts."""
        limit = self.options.limit
        before = {path: (norm.running_mean.clone(), norm.running_var.clone()) for path, norm in norms.items()}
        shifts: dict[str, tuple[Tensor, Tensor]] = {}
        probe = Probe(self.ctx.teacher, Precision("fp32", self.ctx.device.type))  # the student runs in float32 here too
        for number, part in enumerate(parts, 1):
            teacher = _statistics(probe, part)

            def visit(path: str, norm: Any, mean: Tensor, var: Tensor, count: int, number: int = number, teacher: Any = teacher) -> None:
                offset = mean - teacher[path].mean
                factor = ((var + _TINY) / (teacher[path].var + _TINY)).clamp(1 / limit, limit)
                if path in shifts:
                    offset = shifts[path][0].lerp(offset, 1 / number)
                    factor = shifts[path][1].lerp(factor, 1 / number)
                shifts[path] = offset, factor
                norm.running_mean.copy_(before[path][0] + offset)
                norm.running_var.copy_(before[path][1] * factor)

            _run(student.module, norms, part, visit)
            yield

    def ema(self, student: Student, norms: Mapping[str, Any], parts: list[Tensor]) -> Iterator[None]:
        """running += momentum * (batch - running), with the unbiased variance, as BatchNorm itself does in training."""

        def visit(path: str, norm: Any, mean: Tensor, var: Tensor, count: int) -> None:
            norm.running_mean.lerp_(mean, self.options.momentum)
            norm.running_var.lerp_(var * (count / max(count - 1, 1)), self.options.momentum)

        for part in parts:
            _run(student.module, norms, part, visit)
            yield


def corresponding_norms(student: Student, ctx: Context) -> dict[str, Any]:
    """The student's BatchNorm layers by the path of the teacher's layer, without those that were folded."""
    own = batch_norms(student.module)
    pairs = {path: own.get(student.names.get(path, path)) for path in batch_norms(ctx.teacher.module)}
    norms = {path: norm for path, norm in pairs.items() if norm is not None}
    if not norms:
        raise ZsqError("the student has no BatchNorm layer to adapt", "calibrator 'abn'", "leave out --calib abn")
    return norms


@torch.no_grad()
def _statistics(probe: Probe, inputs: Tensor) -> Mapping[str, BnStats]:
    teacher = probe(Batch(inputs), {"teacher.bn"}).teacher
    assert teacher is not None
    return teacher.bn


@torch.no_grad()
def _run(module: nn.Module, norms: Mapping[str, Any], inputs: Tensor, visit: Visit) -> None:
    """One forward in float32; calls ``visit`` with every layer's input statistics before the layer normalises."""

    def watch(path: str, norm: Any, x: Tensor) -> None:
        visit(path, norm, *channel_stats(x), x.numel() // x.shape[1])

    with watching_inputs(norms, watch):
        module(inputs.contiguous(memory_format=torch.channels_last))
