"""The synthesizer ``gdfq``: trains a generator on the teacher's cross-entropy and BatchNorm statistics, one step per student batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsq.protocols import Classed
from zsq.training import BnsDistance
from zsq.types import Batch, Beat, Cadence, Context, Probe, Update, View
from zsq_gdfq import GdfqOptions, GeneratorOptions
from zsq_gdfq.generator import Generator, Labels, initialising_from

#: Smallest side of large images; for them ``auto`` conditioning is the authors' ImageNet generator.
LARGE = 64


class GeneratorSynth:
    """Base class of synthesizers that are based on GDFQ: the alternation, the generator's loss and its optimizer.

    A subclass creates the generator (``build``) and draws its inputs (``draw``). It may return other images to the student than
    the generator is trained on (``sample``), or have another loss (``loss``, ``needs``).
    """

    cadence = Cadence(1, 1, "synth", reuse=True)
    #: What ``loss`` reads from the view.
    needs = frozenset({"teacher.output", "teacher.bn"})

    def __init__(self, options: GeneratorOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx
        self.shape, self.num_classes = ctx.teacher.inputs.shape, ctx.teacher.task.classes
        with initialising_from(ctx.rng):
            generator = self.build()
        self.generator = generator.to(ctx.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [p for p in self.generator.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, options.lr, (options.betas[0], options.betas[1]), fused=True)
        self.bns_distance = BnsDistance()
        self.steps = 0

    def build(self) -> nn.Module:
        """The generator, on the CPU."""
        raise NotImplementedError

    def draw(self, n: int) -> tuple[tuple[Any, ...], Tensor | None]:
        """The generator's inputs for ``n`` images, and their targets or None."""
        raise NotImplementedError

    def conditional(self, conditioning: str) -> bool:
        """Whether classes have their own BatchNorm scale and shift, given the option ``conditioning``."""
        return conditioning == "cbn" or (conditioning == "auto" and min(self.shape[1:]) >= LARGE)

    def sample(self, n: int) -> Batch:
        """``n`` images of the generator in its current state."""
        return self.generate(n)

    def generate(self, n: int) -> Batch:
        """``n`` images of the generator. Its BatchNorm layers need two images, so for ``n`` = 1 a second one is made and dropped."""
        inputs, targets = self.draw(max(n, 2))
        with self.ctx.precision.autocast():
            images = self.generator(*inputs)
        if n > 1:
            return Batch(images, targets)  # the gradient of a slice would not be channels_last
        return Batch(images[:n], None if targets is None else targets[:n])

    def state_dict(self) -> dict[str, Any]:
        """The resumable state: generator, optimizer and number of steps."""
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state, during the warm-up or after it."""
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]

    def prepare(self, probe: Probe) -> Iterator[Beat]:
        """The warm-up: only the generator is trained. May be closed after any beat."""
        total = self.options.warmup
        for step in range(self.steps, total):
            with torch.enable_grad():
                update = self.update(probe)
            yield Beat(step + 1, total, update.metrics)

    def update(self, probe: Probe) -> Update:
        """One Adam step on the generator's loss; returns its batch with the teacher's trace for the student."""
        batch = self.generate(self.ctx.batch_size)
        view = probe(batch, self.needs)
        loss, metrics = self.loss(view)
        loss.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * self.options.gamma ** sum(self.steps >= m for m in self.options.milestones)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return Update(batch, view.teacher, {name: value.detach() for name, value in metrics.items()})

    def loss(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """L_G = CE(teacher(x), y) + bns_weight * L_BNS (GDFQ, equations 3 to 5), and its terms by name."""
        assert view.teacher is not None and view.batch.targets is not None
        ce = F.cross_entropy(view.task.logits(view.teacher.output), view.batch.targets)
        bns = self.bns_distance(view.teacher.bn)
        return ce + self.options.bns_weight * bns, {"g_ce": ce, "g_bns": bns}


class Gdfq(GeneratorSynth):
    """GDFQ: uniformly drawn labels, one class per image, hard targets (N,)."""

    options: GdfqOptions

    def build(self) -> Generator:
        o = self.options
        return Generator(self.shape, o.latent_dim, self.num_classes, o.channels, o.bn_eps, self.conditional(o.conditioning))

    def draw(self, n: int) -> tuple[tuple[Any, ...], Tensor]:
        rng, device = self.ctx.rng, self.ctx.device
        noise = torch.randn((n, self.options.latent_dim), generator=rng, device=device)
        task = self.ctx.teacher.task
        assert isinstance(task, Classed)
        classes = task.targets(n, rng)
        return (noise, Labels.single(classes)), classes
