"""The synthesizer: one generator step per student batch, on cross-entropy and BatchNorm statistics of the teacher."""

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

#: From this side length on, ``auto`` conditioning is the authors' ImageNet generator.
LARGE = 64


class GeneratorSynth:
    """What the synthesizers of the GDFQ line share: the alternation, the generator's loss and its optimizer.

    A subclass makes the generator (``build``) and draws what goes in (``draw``); it may hand out other images than those
    that the generator learns from (``sample``), or have another loss (``loss``, ``needs``).
    """

    cadence = Cadence(1, 1, "synth", reuse=True)
    #: What ``loss`` reads of the view.
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
        """What the generator is called with for ``n`` images, and their targets, where they have any."""
        raise NotImplementedError

    def conditional(self, conditioning: str) -> bool:
        """Whether classes have their own BatchNorm scale and shift, given the option ``conditioning``."""
        return conditioning == "cbn" or (conditioning == "auto" and min(self.shape[1:]) >= LARGE)

    def sample(self, n: int) -> Batch:
        """``n`` images by the generator as it is."""
        return self.generate(n)

    def generate(self, n: int) -> Batch:
        """``n`` images by the generator as it is; its BatchNorm layers need two, so a single one has an unseen companion."""
        inputs, targets = self.draw(max(n, 2))
        with self.ctx.precision.autocast():
            images = self.generator(*inputs)
        if n > 1:
            return Batch(images, targets)  # a slice's gradient would leave channels_last
        return Batch(images[:n], None if targets is None else targets[:n])

    def state_dict(self) -> dict[str, Any]:
        """Generator, optimizer and number of steps."""
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, in the warm-up or behind it."""
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]

    def prepare(self, probe: Probe) -> Iterator[Beat]:
        """The warm-up: only the generator learns. May be closed after any beat."""
        total = self.options.warmup
        for step in range(self.steps, total):
            with torch.enable_grad():
                update = self.update(probe)
            yield Beat(step + 1, total, update.metrics)

    def update(self, probe: Probe) -> Update:
        """One Adam step on the generator's loss; its batch x is handed to the student with what the teacher said of it."""
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
