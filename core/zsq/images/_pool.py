"""The base class of synthesizers with a pool: makes its batches one after another, caches them for later runs, and samples from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from zsq.errors import ZsqError
from zsq.files import Cache
from zsq.options import PoolOptions
from zsq.protocols import Classed
from zsq.types import Batch, Beat, Context, Probe

#: Images (N, C, H, W) and targets (N,) of a batch.
Made = tuple[Tensor, Tensor]


class Maker(Protocol):
    """Turns one batch of noise after another into images; :class:`zsq.images.Descent` is one. ``done`` counts the current batch's steps.

    ``state_dict()`` holds the state of the current batch without its images. The first ``make`` after ``load_state_dict`` continues.
    """

    done: int

    def make(self, x: Tensor, targets: Tensor) -> Iterator[tuple[bool, Mapping[str, Tensor]]]:
        """Change ``x`` (N, C, H, W) in place; yields after every step whether it was the last one, and its metrics."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


M = TypeVar("M", bound=Maker)


class PoolSynth(Generic[M]):
    """Staged: ``prepare`` makes ``pool`` (N, C, H, W, float32, channels_last) and ``targets`` (N,); ``sample`` draws from them.
    Where the task gives images no class, ``classed`` is False, and batches have no targets.

    Every batch has its own random generator, and all batches share one sequence of classes, so a pool with more batches begins with
    the same images. A subclass sets ``name`` and ``distribution`` (its version is part of the cache key) and returns the object that
    makes batches (``maker``). It may override how batches begin and end.
    """

    name: str
    distribution: str
    #: Options that do not change the images of a batch, so they are not part of the cache key.
    free: tuple[str, ...] = ("images", "batch")

    def __init__(self, options: PoolOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx
        self.seed = int(torch.randint(2**62, (), generator=ctx.rng, device=ctx.rng.device))
        self.classed = isinstance(ctx.teacher.task, Classed)
        self.pool = torch.empty((0, *ctx.teacher.inputs.shape), device=ctx.device)
        self.targets = torch.empty(0, dtype=torch.int64, device=ctx.device)
        self._order = self.generator("order")
        self._left = torch.empty(0, dtype=torch.int64)
        self._finished: list[Made] = []
        self._unfinished: Made | None = None
        self._maker: M | None = None
        self._whole = False
        self._begun: Mapping[str, Any] | None = None
        small = ctx.teacher.inputs.shape[-1] * ctx.teacher.inputs.shape[-2] <= 64 * 64
        self.images = options.images or (768 if small else 64)
        self.batch = options.batch or (128 if small else 32)

    def prepare(self, probe: Probe) -> Iterator[Beat]:
        """Make the batches that are not in the cache. Closed early, the pool has the finished batches, or the first one as it is."""
        spans = self._spans()
        if self._whole:  # resumed after the pool was complete
            yield Beat(len(spans) * self.options.iterations, len(spans) * self.options.iterations)
            return
        cache = Cache(self.ctx.cache if self.ctx.teacher.fingerprint else None, "pools")
        finished = self._finished
        kept = {span: found for span in spans[len(finished) :] if (found := self._kept(cache, span)) is not None}
        if kept:
            self.ctx.log(f"{len(kept)} of {len(spans)} batches of images from the cache")
        maker, each = self.maker(), self.options.iterations
        self._maker = maker
        try:
            for number, span in list(enumerate(spans))[len(finished) :]:
                if span in kept:
                    finished.append(kept[span])
                    yield Beat((number + 1) * each, len(spans) * each)
                    continue
                x, targets = self._unfinished = self.begin(span)
                done = self._restore(maker, x)
                for step, (last, metrics) in enumerate(self.steps(maker, span, (x, targets), finished), done + 1):
                    if last:
                        finished.append(self.finish(maker, x, targets))
                        self._unfinished = None
                        cache.save(self.key(span), {"images": finished[-1][0], "targets": finished[-1][1]})
                    yield Beat(number * each + (each if last else step), len(spans) * each, metrics)
        finally:
            if not finished and self._unfinished is not None:
                finished.append(self.finish(maker, *self._unfinished))
            self._finished, self._unfinished, self._maker = [], None, None
            if finished:
                pool = torch.cat([images for images, _ in finished])
                self.pool = pool.contiguous(memory_format=torch.channels_last)
                self.targets = torch.cat([targets for _, targets in finished])

    def state_dict(self) -> dict[str, Any]:
        """The resumable state: finished batches and the current one while the pool is made; then the pool, and the rest of the epoch."""
        begun = self._unfinished is not None and self._maker is not None
        return {
            "finished": self._finished,
            "images": self._unfinished[0] if begun and self._unfinished else None,
            "maker": self._maker.state_dict() if begun and self._maker else None,
            "pool": self.pool,
            "targets": self.targets,
            "order": self._order.get_state(),
            "left": self._left,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        device = self.ctx.device
        self._finished = [(images.to(device), targets.to(device)) for images, targets in state["finished"]]
        self._begun = state if state["images"] is not None else None
        self.pool, self.targets, self._left = state["pool"].to(device), state["targets"].to(device), state["left"]
        self._order.set_state(state["order"])
        self._whole = len(self.pool) > 0

    def _restore(self, maker: M, x: Tensor) -> int:
        """Restore a batch that was interrupted in the middle; returns the number of its finished steps."""
        begun, self._begun = self._begun, None
        if begun is None:
            return 0
        with torch.no_grad():
            x.copy_(begun["images"])
        maker.load_state_dict(begun["maker"])
        return int(begun["maker"]["done"])

    def sample(self, n: int) -> Batch:
        """``n`` images with targets. Every epoch is shuffled. An epoch with fewer than ``n`` images left ends early, so that a batch
        that is not larger than the pool has no image twice.

        Raises:
            ZsqError: If the pool is empty.
        """
        if not len(self.pool):
            raise ZsqError("the pool has no images yet", f"synthesizer '{self.name}'", "run its prepare first")
        if len(self._left) < n:
            epochs = -(-n // len(self.pool))
            self._left = torch.cat([torch.randperm(len(self.pool), generator=self._order) for _ in range(epochs)])
        taken, self._left = self._left[:n].to(self.pool.device), self._left[n:]
        images = self.pool[taken].contiguous(memory_format=torch.channels_last)
        return Batch(images, self.targets[taken] if self.classed else None)

    def _spans(self) -> list[tuple[int, int]]:
        """Of each batch, the number of its first image, and of the first image after it."""
        starts = range(0, self.images, self.batch)
        return [(first, min(first + self.batch, self.images)) for first in starts]

    # What a subclass may change

    def maker(self) -> M:
        """What makes the batches."""
        raise NotImplementedError

    def noise(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """The initial images, N(0, 1), from a CPU generator."""
        return torch.randn(shape, generator=rng)

    def begin(self, span: tuple[int, int]) -> Made:
        """The initial images of a batch, and their classes."""
        first, end = span
        x = self.noise((end - first, *self.ctx.teacher.inputs.shape), self.generator(f"images {first}")).to(self.ctx.device)
        return x.contiguous(memory_format=torch.channels_last).requires_grad_(), self.labels(span).to(self.ctx.device)

    def steps(self, maker: M, span: tuple[int, int], begun: Made, finished: Sequence[Made]) -> Iterator[tuple[bool, Mapping[str, Tensor]]]:
        """Make a batch from its initial images; a subclass may use the ``finished`` batches."""
        return maker.make(*begun)

    def finish(self, maker: M, x: Tensor, targets: Tensor) -> Made:
        """Images and targets of a finished batch, as the pool keeps them."""
        return x.detach(), targets

    def labels(self, span: tuple[int, int]) -> Tensor:
        """Classes of a batch, from one even sequence for all batches."""
        return deal_classes(span[1], self.ctx.teacher.task.classes, self.generator("classes"))[span[0] :]

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for a purpose, whatever the device, so that every device starts from the same noise."""
        digest = hashlib.sha256(f"{self.seed}:{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    # The cache

    def key(self, span: tuple[int, int]) -> dict[str, Any]:
        """The cache key of a batch: everything that its images depend on. The size of the pool is not part of it."""
        inputs = self.ctx.teacher.inputs
        options = {name: value for name, value in self.options.to_dict().items() if name not in self.free}
        return {
            "synth": f"{self.name} {version(self.distribution)}",
            "teacher": self.ctx.teacher.fingerprint,
            "inputs": [list(inputs.shape), list(inputs.mean), list(inputs.std)],
            "classes": self.ctx.teacher.task.classes,
            "options": options,
            "span": list(span),
            "seed": self.seed,
            "precision": self.ctx.precision.name,
            "device": self.ctx.device.type,
            "torch": torch.__version__,
        }

    def _kept(self, cache: Cache, span: tuple[int, int]) -> Made | None:
        """Images and targets of a batch from the cache; None if they are missing or damaged."""
        found = cache.load(self.key(span)) or {}
        images, targets = found.get("images"), found.get("targets")
        count = span[1] - span[0]
        if images is None or targets is None or images.shape != (count, *self.ctx.teacher.inputs.shape) or targets.shape != (count,):
            return None
        return images.to(self.ctx.device).contiguous(memory_format=torch.channels_last), targets.to(self.ctx.device)


def deal_classes(count: int, classes: int, rng: torch.Generator) -> Tensor:
    """``count`` classes (N,) in random order, on the device of ``rng``; a class is repeated only after all others were dealt."""
    return torch.cat([torch.randperm(classes, generator=rng, device=rng.device) for _ in range(-(-count // classes))])[:count]
