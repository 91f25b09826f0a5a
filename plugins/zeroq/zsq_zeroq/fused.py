"""One operation per frozen BatchNorm layer that normalises and also gives the statistics of its input, backwards in two memory passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from zsq.run.probe import batch_norms, channel_stats


@dataclass(frozen=True)
class Seen:
    """Statistics of the input of one layer in float32: mean and biased variance, each (C,) or per image (N, C).

    ``count`` is the number of values that went into each.
    """

    mean: Tensor
    var: Tensor
    count: int


class Watched:
    """A frozen network whose BatchNorm layers say what they see.

    ``with watched as seen:`` a forward of the network fills ``seen`` by path, in the order of execution; outside, the network
    is as it was. A layer of a class with a forward of its own is not replaced, only listened to.

    Args:
        module: In eval mode.
        per_image: Statistics of every image instead of the batch.
    """

    def __init__(self, module: nn.Module, per_image: bool) -> None:
        self.per_image = per_image
        self.norms = batch_norms(module)
        self._frozen = {path: _Frozen.of(norm) for path, norm in self.norms.items() if _is_plain(norm)}

    @contextmanager
    def __call__(self) -> Iterator[Mapping[str, Seen]]:
        seen: dict[str, Seen] = {}
        handles = []
        try:
            for path, norm in self.norms.items():
                if path in self._frozen:
                    norm.forward = self._fused(path, seen)  # type: ignore[method-assign]
                else:
                    handles.append(norm.register_forward_pre_hook(self._listening(path, seen)))
            yield seen
        finally:
            for path in self._frozen:
                self.norms[path].__dict__.pop("forward", None)
            for handle in handles:
                handle.remove()

    def _fused(self, path: str, seen: dict[str, Seen]) -> Any:
        def forward(x: Tensor) -> Tensor:
            y, mean, var = _NormAndStats.apply(x, self._frozen[path], self.per_image)  # type: ignore[no-untyped-call]
            seen[path] = Seen(mean, var, x.numel() // mean.numel())
            return y  # type: ignore[no-any-return]

        return forward

    def _listening(self, path: str, seen: dict[str, Seen]) -> Any:
        def hook(_norm: nn.Module, inputs: Any) -> None:
            seen[path] = plain_stats(inputs[0], self.per_image)

        return hook


def plain_stats(x: Tensor, per_image: bool) -> Seen:
    """Statistics of ``x`` (N, C, ...), differentiable by ordinary means."""
    if per_image:
        var, mean = torch.var_mean(x.float().flatten(2), 2, correction=0)
    else:
        mean, var = channel_stats(x)
    return Seen(mean, var, x.numel() // mean.numel())


def _is_plain(norm: _BatchNorm) -> bool:
    return type(norm).forward is _BatchNorm.forward and "forward" not in vars(norm) and norm.running_var is not None


@dataclass(frozen=True)
class _Frozen:
    """What a BatchNorm layer in eval mode computes with. ``scale`` is dy/dx, per channel."""

    norm: Any
    scale: Tensor
    zero: Tensor
    one: Tensor = field(repr=False)

    @classmethod
    def of(cls, norm: Any) -> _Frozen:
        with torch.no_grad():
            scale = (norm.running_var.float() + norm.eps).rsqrt()
            scale = scale if norm.weight is None else scale * norm.weight.float()
            return cls(norm, scale.detach(), torch.zeros_like(scale), torch.ones_like(scale))

    def normalise(self, x: Tensor) -> Tensor:
        n = self.norm
        return torch.batch_norm(x, n.weight, n.bias, n.running_mean, n.running_var, False, 0.0, n.eps, torch.backends.cudnn.enabled)

    def times(self, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """``x * scale + offset`` per channel in one pass, into new memory."""
        return torch.batch_norm(x, scale, offset, self.zero, self.one, False, 0.0, 0.0, False)


class _NormAndStats(torch.autograd.Function):
    """x (N, C, ...) to BatchNorm(x), and mean and biased variance of x per channel, over the batch or per image.

    Backwards dx = scale dy + dmean / n + 2 (x - mean) dvar / n: one multiplication out of place and one in place, where autograd
    would run the backward of BatchNorm, that of the statistics, and their sum, each with memory of its own. On a CPU new memory
    costs more than arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: _Frozen, per_image: bool) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _image_stats(x) if per_image else torch.batch_norm_update_stats(x, frozen.zero.clone(), frozen.one.clone(), 1.0)
        ctx.save_for_backward(x, mean)
        ctx.frozen, ctx.per_image = frozen, per_image
        ctx.set_materialize_grads(False)
        return frozen.normalise(x), mean, var

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor | None, dmean: Tensor | None, dvar: Tensor | None) -> tuple[Tensor | None, None, None]:
        x, mean = ctx.saved_tensors
        frozen, n = ctx.frozen, x.numel() // mean.numel()
        zero = torch.zeros_like(mean)
        dmean, dvar = zero if dmean is None else dmean, zero if dvar is None else dvar
        slope = (dvar * (2 / n)).to(x.dtype)  # rounded before the offset is made of it, so that both still cancel at the mean
        offset = dmean / n - slope.float() * mean
        if dy is None:
            dy = torch.zeros_like(x)
        if ctx.per_image:
            dx = frozen.times(dy, frozen.scale, frozen.zero).addcmul_(x, _rows(slope, x)).add_(_rows(offset.to(x.dtype), x))
        else:
            dx = frozen.times(dy, frozen.scale, offset).addcmul_(x, _rows(slope[None], x))
        return dx, None, None


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
    """(N or 1, C) to (N or 1, C, 1, W) in the memory order of ``x``: with few channels, vectorised kernels want longer rows."""
    if x.dim() != 4:
        return values.view(*values.shape, *[1] * (x.dim() - 2))
    rows = torch.empty_like(x[: len(values), :, :1, :])
    return rows.copy_(values[:, :, None, None])
