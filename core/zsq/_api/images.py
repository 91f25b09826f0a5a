"""Somebody's own few images in the place of a synthesizer: checked once, dealt out like a pool."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zsq.errors import OptionError
from zsq.options import Options, opt
from zsq.types import Batch, Context

#: Bytes of images that are read of something that may have no end.
_MOST = 2**30


@dataclass(frozen=True, kw_only=True)
class OwnImagesOptions(Options):
    count: int = opt(0, "How many images there are.", ge=0)
    sha256: str = opt("", "Checksum of all of them: a run goes on with the same images only.")


class OwnImages:
    """Images as they are, in random order, no one twice before each came once.

    Args:
        options: With the checksum of the images that the recipe was made with.
        ctx: Of the run.
        images: (N, C, H, W), normalised as the network takes them.
        targets: Their classes (N,), or None.
    """

    def __init__(self, options: OwnImagesOptions, ctx: Context, images: Tensor, targets: Tensor | None) -> None:
        if options.sha256 and options.sha256 != checksum(images):
            raise OptionError("these are other images than the run began with", "synth=", "give the same ones, in the same order")
        shape = tuple(ctx.teacher.inputs.shape)
        if tuple(images.shape[1:]) != shape:
            what = f"the images are {tuple(images.shape[1:])}, but the network takes {shape}"
            raise OptionError(what, "synth=", "give them as the network takes them: channels, height, width, normalised")
        self.ctx = ctx
        self.pool = images.to(ctx.device).contiguous(memory_format=torch.channels_last)
        self.targets = None if targets is None else targets.to(ctx.device)
        self._left = torch.empty(0, dtype=torch.int64)

    def sample(self, n: int) -> Batch:
        """The next ``n`` images."""
        while len(self._left) < n:
            order = torch.randperm(len(self.pool), generator=self.ctx.rng, device=self.ctx.rng.device).cpu()
            self._left = torch.cat([self._left, order])
        taken, self._left = self._left[:n].to(self.pool.device), self._left[n:]
        images = self.pool[taken].contiguous(memory_format=torch.channels_last)
        return Batch(images, None if self.targets is None else self.targets[taken])

    def state_dict(self) -> dict[str, Any]:
        return {"left": self._left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._left = state["left"]


def gather(given: Any) -> tuple[Tensor, Tensor | None, bool]:
    """Images (N, C, H, W) in float32, their classes where they came along, and whether there were more than are kept.

    Args:
        given: A tensor; a pair of images and classes; or batches of either, such as a DataLoader gives.

    Raises:
        OptionError: When there are none, or they are of another kind.
    """
    if isinstance(given, Tensor) or (isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, Tensor) for part in given)):
        given = [given]
    images: list[Tensor] = []
    targets: list[Tensor] = []
    size, more = 0, False
    for item in _batches(given):
        batch, label = (item[0], item[1] if len(item) > 1 else None) if isinstance(item, (tuple, list)) else (item, None)
        if not isinstance(batch, Tensor):
            raise OptionError(
                f"a batch is a {type(batch).__name__}, not a tensor", "synth=", "give tensors (N, C, H, W), or pairs of images, classes"
            )
        batch = batch.detach().cpu()
        batch = batch if batch.dim() == 4 else batch[None]
        if batch.dim() != 4 or not batch.is_floating_point():
            what = f"images are {str(batch.dtype).removeprefix('torch.')} of shape {tuple(batch.shape)}"
            raise OptionError(what, "synth=", "give float tensors (N, C, H, W), normalised as your network takes them")
        images.append(batch.float())
        if isinstance(label, Tensor) and label.dtype in (torch.int64, torch.int32, torch.uint8) and label.numel() == len(batch):
            targets.append(label.detach().cpu().reshape(-1).long())
        size += batch.numel() * 4
        if size >= _MOST:
            more = True
            break
    if not images:
        raise OptionError("there are no images", "synth=", "give a tensor (N, C, H, W) or a DataLoader with at least one image")
    found = torch.cat(images)
    if not bool(found.isfinite().all()):
        raise OptionError("images hold values that are not finite", "synth=", "look at how they are loaded and normalised")
    return found, torch.cat(targets) if sum(map(len, targets)) == len(found) else None, more


def _batches(given: Any) -> Iterable[Any]:
    if not isinstance(given, Iterable):
        what = f"synth= is a {type(given).__name__}"
        raise OptionError(what, "zsq.quantize", "give a name, (name, options), a tensor, a DataLoader, or an object with sample(n)")
    return given


def checksum(images: Tensor) -> str:
    """SHA-256 of images (N, C, H, W)."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()
