"""AAC: sets activation ranges from the full-precision network's peaks on images that excite it (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsq.training import BnsDistance, Extremes, ImageExtremes, Percentiles, Tracker, act_modules, full_precision, watching_inputs
from zsq.types import Batch, Beat, Context, Student, Trace, View
from zsq_aac import AacOptions
from zsq_aac.images import PixelPool


class Aac:
    """Accurate activation clipping.

    We take the paper's term to be the logit of the image's class. After a global average and a linear layer it is the weighted sum of
    the class activation map, so a higher logit means higher activations; cross-entropy only raises logit *differences*. Without a
    bound it overshoots. So the default is the distance to a target, with BatchNorm statistics.
    """

    def __init__(self, options: AacOptions, ctx: Context) -> None:
        self.options, self.ctx, self.bns_distance = options, ctx, BnsDistance()
        self.level: Tensor | float | None = options.target
        self.pool: PixelPool | None = None
        self._loaded: Mapping[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The resumable state: the images, and the target logit."""
        return {"level": self.level, "pool": self.pool and self.pool.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self.level, self._loaded = state["level"], state["pool"]

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]:
        """Make images, then set every range; closed early, set ranges from the images so far. Takes nothing from the stream."""
        pool = self.pool = PixelPool(self.options, self.ctx, self.loss)
        if self._loaded is not None:
            pool.load_state_dict(self._loaded)
        student.module.eval()
        try:
            for metrics in pool.make_all():
                yield Beat(pool.step, pool.total, metrics)
        finally:
            self.clip(student, pool.inputs)

    def loss(self, view: View, step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The term of the option ``variant`` + bn_weight * L_BNS."""
        o = self.options
        assert view.teacher is not None and view.batch.targets is not None
        logits, targets = view.task.logits(view.teacher.output), view.batch.targets
        own = logits.gather(1, targets[:, None]).squeeze(1)  # the logit of each image's class, (N,)
        shown = {"target_logit": own.detach().mean()}
        leading = o.target is None and step < o.steps // 3
        if o.variant == "ce" or (o.variant == "logit-target" and leading):
            term = F.cross_entropy(logits, targets)
        elif o.variant == "logit":
            term = -own.mean()
        else:
            if o.target is None and step == o.steps // 3:
                self.level = shown["target_logit"]
            assert self.level is not None, "step steps // 3 has set it"
            term = (own - self.level).abs().mean()
        if o.bn_weight:
            bns = self.bns_distance(view.teacher.bn)
            return term + o.bn_weight * bns, {**shown, "bns": bns.detach()}
        return term, shown

    @torch.no_grad()
    def clip(self, student: Student, inputs: Tensor) -> None:
        """One float32 forward of ``inputs`` without fake-quantization; the values at each activation point set its range."""
        trackers = {path: self._tracker() for path in student.acts}
        with full_precision(student), watching_inputs(act_modules(student), lambda path, _point, x: trackers[path].update(x)):
            for part in torch.split(inputs, self.options.batch):
                student.module(part)
        for path, point in student.acts.items():
            if not point.frozen:
                point.set_range(*trackers[path].read())

    def _tracker(self) -> Tracker:
        match self.options.reduction:
            case "max":
                return Extremes()
            case "percentile":
                return Percentiles(self.options.percent)
            case _:
                return ImageExtremes()
