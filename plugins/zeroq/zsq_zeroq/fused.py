"""Records the statistics of every BatchNorm layer's input: one fused operation per frozen layer, with a backward of two memory passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from zsq.training import batch_norms


@dataclass
class InputStatistics:
    """Statistics of the inputs of ``layers`` in float32, side by side: mean and biased variance, each (ΣC,) or per image (N, ΣC).

    ``counts`` is, layer by layer, the number of values behind each statistic.
    """

    layers: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    mean: Tensor = field(default_factory=lambda: torch.empty(0))
    var: Tensor = field(default_factory=lambda: torch.empty(0))


class RecordedNetwork:
    """A frozen network that also returns its BatchNorm layers' input statistics: ``output, seen = network(x)``, differentiable in ``x``.

    Layers are replaced during the forward only. Layers of a subclass with its own forward are not replaced; a hook reads their input.

    Args:
        module: In eval mode.
        per_image: Take the statistics of every image, not of the batch.
    """

    def __init__(self, module: nn.Module, per_image: bool) -> None:
        self.module, self.norms = module, batch_norms(module)
        self._recorder = _Recorder(per_image)
        self._plain = {path: _Layer(norm, self._recorder, path) for path, norm in self.norms.items() if _is_plain(norm)}

    def __call__(self, x: Tensor) -> tuple[Any, InputStatistics]:
        recorder, handles = self._recorder, []
        try:
            for path, norm in self.norms.items():
                if path in self._plain:
                    vars(norm)["forward"] = self._plain[path]
                else:
                    handles.append(norm.register_forward_pre_hook(lambda _, inputs, path=path: recorder.record(path, inputs[0])))
            output = self.module(x)
            return output, recorder.gathered()
        finally:
            recorder.clear()
            for path in self._plain:
                vars(self.norms[path]).pop("forward", None)
            for handle in handles:
                handle.remove()


def input_statistics(x: Tensor, per_image: bool) -> InputStatistics:
    """The statistics of ``x`` (N, C, ...) alone, differentiable."""
    recorder = _Recorder(per_image)
    recorder.record("", x)
    return recorder.gathered()


class _Recorder:
    """Collects statistics layer by layer during one forward."""

    def __init__(self, per_image: bool) -> None:
        self.per_image = per_image
        self._layout: _Layout | None = None
        self.clear()

    def clear(self) -> None:
        self.layers: list[str] = []
        self.calls: list[_Call] = []
        self.stats: list[tuple[Tensor, Tensor]] = []

    def add(self, path: str, call: _Call, mean: Tensor, var: Tensor) -> None:
        self.layers.append(path)
        self.calls.append(call)
        self.stats.append((mean, var))

    def record(self, path: str, x: Tensor) -> None:
        """Add the statistics of ``x``; ``x`` stays as it is."""
        call = _Call(x, self.per_image)
        self.add(path, call, *_Statistics.apply(x, call, self.per_image))  # type: ignore[no-untyped-call]

    def gathered(self) -> InputStatistics:
        if not self.layers:
            return InputStatistics()
        calls = self.calls
        if self._layout is None or self._layout.calls != [call.key for call in calls]:
            self._layout = _Layout(calls, self.stats[0][0].device)
        stats = [m for m, _ in self.stats] + [v for _, v in self.stats]
        mean, var = _Gather.apply(self._layout, calls, *stats)  # type: ignore[no-untyped-call]
        return InputStatistics(self.layers, [call.count for call in calls], mean, var)


class _Call:
    """One call of one layer: the form of its input and, in the backward, slope and offset of its gradient."""

    def __init__(self, x: Tensor, per_image: bool) -> None:
        channels = x.shape[1]
        self.count = x.numel() // (channels * len(x) if per_image else channels)
        # With few channels of a 16-bit type, kernels are fast on longer rows only: values are laid out along the width.
        width = x.shape[-1] if x.dim() == 4 and channels < 64 and x.dtype is not torch.float32 else 1
        self.key = (self.count, channels, width, x.dim(), x.dtype)
        self.slope: Tensor | None = None
        self.offset: Tensor | None = None


class _Layout:
    """The position of each call's values among those of all calls, for :class:`_Gather`."""

    def __init__(self, calls: list[_Call], device: torch.device) -> None:
        self.calls = [call.key for call in calls]
        self.sizes = [channels for _, channels, *_ in self.calls]
        self.inverse = torch.cat([torch.full((channels,), 1 / count) for count, channels, *_ in self.calls]).to(device)
        self.dtype = next((dtype for *_, dtype in self.calls if dtype is not torch.float32), torch.float32)
        starts = torch.tensor([0, *self.sizes]).cumsum(0).tolist()
        spread = [torch.arange(c).repeat(width) + start for (_, c, width, *_), start in zip(self.calls, starts, strict=False)]
        self.rows = [len(part) for part in spread]
        self.index = torch.cat(spread).to(device) if self.rows != self.sizes else None

    def spread(self, values: Tensor) -> list[Tensor]:
        """(ΣC,) or (N, ΣC) to one tensor per call, each of a shape that broadcasts to the call's input: (1 or N, C, 1, width or 1)."""
        if self.index is not None:
            values = values.index_select(-1, self.index)
        parts = []
        for part, (_, channels, width, dims, _) in zip(torch.split(values, self.rows, -1), self.calls, strict=True):
            if width > 1:
                parts.append(part.reshape(-1, 1, width, channels).permute(0, 3, 1, 2))
            else:
                parts.append(part.reshape(-1, channels, *[1] * (dims - 2)))
        return parts


class _Layer:
    """A BatchNorm layer in eval mode that also records the statistics of its input. ``scale`` is dy/dx, per channel."""

    def __init__(self, norm: Any, recorder: _Recorder, path: str) -> None:
        self.norm, self.recorder, self.path = norm, recorder, path
        scale = (norm.running_var.detach().float() + norm.eps).rsqrt()
        self.scale = scale if norm.weight is None else scale * norm.weight.detach().float()
        self.zero, self.one = torch.zeros_like(scale), torch.ones_like(scale)
        self.unused = self.zero.clone(), self.one.clone()  # overwritten at every forward and never read

    def __call__(self, x: Tensor) -> Tensor:
        call = _Call(x, self.recorder.per_image)
        found: tuple[Tensor, Tensor, Tensor] = _NormAndStatistics.apply(x, self, call)  # type: ignore[no-untyped-call]
        self.recorder.add(self.path, call, *found[1:])
        return found[0]

    def normalise(self, x: Tensor) -> Tensor:
        n = self.norm
        return torch.batch_norm(x, n.weight, n.bias, n.running_mean, n.running_var, False, 0.0, n.eps, torch.backends.cudnn.enabled)

    def times_scale(self, dy: Tensor, offset: Tensor) -> Tensor:
        """``dy * scale + offset`` in one pass, into new memory."""
        return torch.batch_norm(dy, self.scale, offset, self.zero, self.one, False, 0.0, 0.0, False)


# Three functions that work together. With n values behind each mean and variance,
#
#     dx = scale dy + dmean / n + 2 (x - mean) dvar / n = scale dy + slope x + offset
#     slope = 2 dvar / n,  offset = dmean / n - slope mean
#
# _Gather concatenates the statistics of all layers. Its backward runs first and stores slope and offset in every call: a few
# operations in all, not a few per layer. Each layer's backward then multiplies once out of place and once in place. Autograd would
# run the backward of BatchNorm, the backward of the statistics, and their sum, and allocate memory for each. On a CPU, memory
# allocation and small operations cost more than arithmetic.


class _NormAndStatistics(torch.autograd.Function):
    """x (N, C, ...) to BatchNorm(x), and mean and biased variance of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Layer, call: _Call) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.layer, ctx.call = layer, call
        ctx.set_materialize_grads(False)
        if layer.recorder.per_image:
            return layer.normalise(x), *_image_stats(x)
        return layer.normalise(x), *torch.batch_norm_update_stats(x, *layer.unused, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, None, None]:
        (x,), layer, call = ctx.saved_tensors, ctx.layer, ctx.call
        if dy is None:
            return _line(x, call), None, None
        if call.slope is None:
            return layer.times_scale(dy, layer.zero), None, None
        dx = layer.times_scale(dy, layer.zero).add_(call.offset) if layer.recorder.per_image else layer.times_scale(dy, call.offset)
        return dx.addcmul_(x, call.slope), None, None


class _Statistics(torch.autograd.Function):
    """Mean and biased variance of x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: _Call, per_image: bool) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.call = call
        ctx.set_materialize_grads(False)
        if per_image:
            return _image_stats(x)
        unused = torch.zeros(x.shape[1], device=x.device), torch.ones(x.shape[1], device=x.device)
        return torch.batch_norm_update_stats(x, *unused, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: None) -> tuple[Tensor | None, None, None]:
        (x,) = ctx.saved_tensors
        return _line(x, ctx.call), None, None


class _Gather(torch.autograd.Function):
    """Means and variances of all calls to two flat tensors; the comment above explains its backward."""

    @staticmethod
    def forward(ctx: Any, layout: _Layout, calls: list[_Call], *stats: Tensor) -> tuple[Tensor, Tensor]:
        ctx.layout, ctx.calls = layout, calls
        mean, var = torch.cat(stats[: len(calls)], -1), torch.cat(stats[len(calls) :], -1)
        ctx.save_for_backward(mean)
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmean: Tensor, dvar: Tensor) -> tuple[None, ...]:
        (mean,), layout = ctx.saved_tensors, ctx.layout
        slope = (dvar * layout.inverse).mul_(2).to(layout.dtype)  # rounded before the offset is computed, so that both cancel at the mean
        offset = torch.addcmul(dmean * layout.inverse, slope.float(), mean, value=-1)
        offsets = layout.spread(offset.to(layout.dtype)) if mean.dim() == 2 else torch.split(offset, layout.sizes)
        for call, each_slope, each_offset in zip(ctx.calls, layout.spread(slope), offsets, strict=True):
            call.slope, call.offset = each_slope, each_offset
        return (None,) * (2 + 2 * len(ctx.calls))


def _line(x: Tensor, call: _Call) -> Tensor | None:
    """``slope * x + offset``."""
    if call.slope is None or call.offset is None:
        return None
    offset = call.offset if call.offset.dim() > 1 else call.offset.to(x.dtype).view(-1, *[1] * (x.dim() - 2))
    return (x * call.slope).add_(offset)


def _image_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every image and channel, each (N, C), in float32."""
    if x.device.type != "cpu":
        var, mean = torch.var_mean(x.float().flatten(2), 2, correction=0)
        return mean, var
    # On a CPU one fused pass per image is tens of times faster than a reduction over the inner dimensions of channels_last.
    unused = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    each = [torch.batch_norm_update_stats(image, *unused, 1.0) for image in torch.split(x, 1)]
    return torch.stack([mean for mean, _ in each]), torch.stack([var for _, var in each])


def _is_plain(norm: _BatchNorm) -> bool:
    return type(norm).forward is _BatchNorm.forward and "forward" not in vars(norm)
