"""One operation per frozen BatchNorm layer that normalises and also gives the statistics of its input, backwards in two memory passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from zsq.run.probe import batch_norms


@dataclass
class Seen:
    """Statistics of the inputs of ``layers`` in float32, side by side: mean and biased variance, each (ΣC,) or per image (N, ΣC).

    ``counts`` says, layer by layer, how many values went into each.
    """

    layers: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    mean: Tensor = field(default_factory=lambda: torch.empty(0))
    var: Tensor = field(default_factory=lambda: torch.empty(0))


class Watched:
    """A frozen network whose BatchNorm layers say what they see: ``output, seen = watched(x)``, differentiable in ``x``.

    Layers are replaced during the forward only, and those of a class with a forward of its own are merely listened to.

    Args:
        module: In eval mode.
        per_image: Statistics of every image instead of the batch.
    """

    def __init__(self, module: nn.Module, per_image: bool) -> None:
        self.module, self.norms = module, batch_norms(module)
        self._tally = _Tally(per_image)
        self._plain = {path: _Layer(norm, self._tally, path) for path, norm in self.norms.items() if _is_plain(norm)}

    def __call__(self, x: Tensor) -> tuple[Any, Seen]:
        tally, handles = self._tally, []
        try:
            for path, norm in self.norms.items():
                if path in self._plain:
                    vars(norm)["forward"] = self._plain[path]
                else:
                    handles.append(norm.register_forward_pre_hook(lambda _, inputs, path=path: tally.look(path, inputs[0])))
            output = self.module(x)
            return output, tally.gathered()
        finally:
            tally.clear()
            for path in self._plain:
                vars(self.norms[path]).pop("forward", None)
            for handle in handles:
                handle.remove()


def look(x: Tensor, per_image: bool) -> Seen:
    """The statistics of ``x`` (N, C, ...) alone, differentiable."""
    tally = _Tally(per_image)
    tally.look("", x)
    return tally.gathered()


class _Tally:
    """Collects statistics layer by layer during one forward."""

    def __init__(self, per_image: bool) -> None:
        self.per_image = per_image
        self._counts_before: list[int] = []
        self._inverse = torch.empty(0)
        self.clear()

    def clear(self) -> None:
        self.layers: list[str] = []
        self.counts: list[int] = []
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []
        self.dtype = torch.float32

    def add(self, path: str, x: Tensor, mean: Tensor, var: Tensor) -> None:
        self.layers.append(path)
        self.counts.append(x.numel() // mean.numel())
        self.means.append(mean)
        self.variances.append(var)
        if x.dtype is not torch.float32:
            self.dtype = x.dtype

    def look(self, path: str, x: Tensor) -> None:
        """Add the statistics of ``x`` without doing anything to it."""
        self.add(path, x, *_Look.apply(x, self.per_image))

    def gathered(self) -> Seen:
        if not self.layers:
            return Seen()
        if self.counts != self._counts_before:
            parts = [torch.full((m.shape[-1],), 1 / n, device=m.device) for m, n in zip(self.means, self.counts, strict=True)]
            self._inverse, self._counts_before = torch.cat(parts), self.counts
        mean, var = _Gather.apply(self._inverse, self.dtype, *self.means, *self.variances)
        return Seen(self.layers, self.counts, mean, var)


class _Layer:
    """What a BatchNorm layer in eval mode does, and the statistics of what it does it to. ``scale`` is dy/dx, per channel."""

    def __init__(self, norm: Any, tally: _Tally, path: str) -> None:
        self.norm, self.tally, self.path = norm, tally, path
        scale = (norm.running_var.detach().float() + norm.eps).rsqrt()
        self.scale = scale if norm.weight is None else scale * norm.weight.detach().float()
        self.zero, self.one = torch.zeros_like(scale), torch.ones_like(scale)
        self.unused = self.zero.clone(), self.one.clone()  # overwritten at every forward and never read

    def __call__(self, x: Tensor) -> Tensor:
        y, mean, var = _NormAndLook.apply(x, self)
        self.tally.add(self.path, x, mean, var)
        return y

    def normalise(self, x: Tensor) -> Tensor:
        n = self.norm
        return torch.batch_norm(x, n.weight, n.bias, n.running_mean, n.running_var, False, 0.0, n.eps, torch.backends.cudnn.enabled)

    def times_scale(self, dy: Tensor, offset: Tensor) -> Tensor:
        """``dy * scale + offset`` in one pass, into new memory."""
        return torch.batch_norm(dy, self.scale, offset, self.zero, self.one, False, 0.0, 0.0, False)


# Three functions that share an understanding. With n values behind each mean and variance,
#
#     dx = scale dy + dmean / n + 2 (x - mean) dvar / n = scale dy + slope x + offset
#     slope = 2 dvar / n,  offset = dmean / n - slope mean
#
# _Gather lays the statistics of all layers side by side and, backwards, hands every layer its offset and slope in the place of dmean
# and dvar: a handful of operations in all instead of a handful per layer. Each layer then multiplies once out of place and once in
# place, where autograd would run the backward of BatchNorm, that of the statistics, and their sum, each with memory of its own.
# On a CPU, new memory and small operations cost more than arithmetic.


class _NormAndLook(torch.autograd.Function):
    """x (N, C, ...) to BatchNorm(x), and mean and biased variance of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Layer) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.layer = layer
        ctx.set_materialize_grads(False)
        if layer.tally.per_image:
            return layer.normalise(x), *_image_stats(x)
        return layer.normalise(x), *torch.batch_norm_update_stats(x, *layer.unused, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, offset: Tensor | None, slope: Tensor | None) -> tuple[Tensor | None, None]:
        (x,), layer = ctx.saved_tensors, ctx.layer
        if dy is None:
            return _line(x, slope, offset), None
        if offset is None or slope is None:
            return layer.times_scale(dy, layer.zero), None
        dx = layer.times_scale(dy, layer.zero).add_(_rows(offset, x)) if layer.tally.per_image else layer.times_scale(dy, offset)
        return dx.addcmul_(x, _rows(slope, x)), None


class _Look(torch.autograd.Function):
    """Mean and biased variance of x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        if per_image:
            return _image_stats(x)
        unused = torch.zeros(x.shape[1], device=x.device), torch.ones(x.shape[1], device=x.device)
        return torch.batch_norm_update_stats(x, *unused, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, offset: Tensor, slope: Tensor) -> tuple[Tensor | None, None]:
        (x,) = ctx.saved_tensors
        return _line(x, slope, offset), None


class _Gather(torch.autograd.Function):
    """Means and variances of all layers to two flat tensors; ``inverse`` holds 1 / n of each. See above for what goes back."""

    @staticmethod
    def forward(ctx: Any, inverse: Tensor, dtype: torch.dtype, *stats: Tensor) -> tuple[Tensor, Tensor]:
        half = len(stats) // 2
        ctx.sizes, ctx.dtype = [m.shape[-1] for m in stats[:half]], dtype
        mean, var = torch.cat(stats[:half], -1), torch.cat(stats[half:], -1)
        ctx.save_for_backward(inverse, mean)
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmean: Tensor, dvar: Tensor) -> tuple[Tensor | None, ...]:
        inverse, mean = ctx.saved_tensors
        slope = dvar * inverse * 2
        slope = slope.to(ctx.dtype).float()  # as layers will round it, so that slope x and offset still cancel at the mean
        offset = torch.addcmul(dmean * inverse, slope, mean, value=-1)
        return None, None, *offset.split(ctx.sizes, -1), *slope.split(ctx.sizes, -1)


def _line(x: Tensor, slope: Tensor | None, offset: Tensor | None) -> Tensor | None:
    """``slope * x + offset``."""
    if slope is None or offset is None:
        return None
    return (x * _rows(slope, x)).add_(_rows(offset, x))


def _image_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every image and channel, each (N, C), in float32."""
    if x.device.type != "cpu":
        var, mean = torch.var_mean(x.float().flatten(2), 2, correction=0)
        return mean, var
    # On a CPU one fused pass per image is tens of times faster than a reduction over the inner dimensions of channels_last.
    unused = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    each = [torch.batch_norm_update_stats(image, *unused, 1.0) for image in x.split(1)]
    return torch.stack([mean for mean, _ in each]), torch.stack([var for _, var in each])


def _rows(values: Tensor, x: Tensor) -> Tensor:
    """(C,) or (N, C) in the type of ``x``, in a shape that spreads over it.

    With few channels of a short type, kernels want longer rows than C to be fast, so they are laid out along the width.
    """
    rows = values.to(x.dtype).view(-1, values.shape[-1], *[1] * (x.dim() - 2))
    if x.dtype is torch.float32 or x.dim() != 4 or x.shape[1] >= 64:
        return rows
    return torch.empty_like(x[: len(rows), :, :1, :]).copy_(rows)


def _is_plain(norm: _BatchNorm) -> bool:
    return type(norm).forward is _BatchNorm.forward and "forward" not in vars(norm)
