"""The synthesizer: one generator step for five student steps, on images on which teacher and student disagree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from zsq_gdfq.synth import GeneratorSynth

from zsq.errors import PlanError
from zsq.training import batch_norms
from zsq.types import Beat, Cadence, Context, Probe, View
from zsq_zaq import CrmOptions, OutputOptions, ScrmOptions, ZaqOptions
from zsq_zaq.generator import InRange, WaveGenerator, make_generator
from zsq_zaq.losses import Crm, LogitL1, Scrm, check_taps, relative_bns


class Zaq(GeneratorSynth):
    """ZAQ's generator: unconditional, so batches carry no targets.

    Raises:
        PlanError: If options need features but the teacher has no taps, or statistics but it has no BatchNorm.
    """

    options: ZaqOptions
    cadence = Cadence(synth=1, student=5, first="student", reuse=False)

    def __init__(self, options: ZaqOptions, ctx: Context) -> None:
        o = options
        self.cadence = replace(self.cadence, observes=o.watch)
        self.output = LogitL1(OutputOptions(norm=o.norm), ctx)
        self.features: Crm | Scrm | None = None
        self.needs = frozenset({"teacher.output", "student.output"})
        if o.features != "none":
            check_taps(ctx.teacher, "synthesizer zaq needs", 1 if o.last else 2)
            crm = CrmOptions(last=o.last, layer_weight=o.layer_weight)
            self.features = Crm(crm, ctx) if o.features == "crm" else Scrm(ScrmOptions(last=o.last), ctx)
            self.needs |= {"teacher.features", "student.features"}
        if o.beta:
            check_taps(ctx.teacher, "synthesizer zaq needs")
            self.needs |= {"teacher.features"}
        if o.warmup and not (o.warmup_student or o.beta or o.bns_weight):
            raise PlanError("the warm-up would have nothing to learn", "option 'warmup_student' of zaq", "set beta or bns_weight")
        if o.bns_weight:
            if not batch_norms(ctx.teacher.module):
                raise PlanError("the teacher has no BatchNorm layer", "option 'bns_weight' of zaq", "leave it at 0")
            self.needs |= {"teacher.bn"}
        super().__init__(options, ctx)

    def prepare(self, probe: Probe) -> Iterator[Beat]:
        """The warm-up: only the generator learns, with or without the student. May be closed after any beat."""
        needs = self.needs
        if not self.options.warmup_student:
            self.needs = frozenset(need for need in needs if not need.startswith("student."))
        try:
            yield from super().prepare(probe)
        finally:
            self.needs = needs

    def build(self) -> nn.Module:
        o = self.options
        generator = make_generator(self.shape, o.latent_dim, o.channels, o.bn_eps, o.waves)
        self.noise_shapes: list[tuple[int, ...]] = generator.noise_shapes if isinstance(generator, WaveGenerator) else []
        return InRange(generator, self.ctx.teacher.inputs) if o.clamp else generator

    def draw(self, n: int) -> tuple[tuple[Any, ...], None]:
        shapes = [(self.options.latent_dim,), *self.noise_shapes]
        return tuple(torch.randn((n, *shape), generator=self.ctx.rng, device=self.ctx.device) for shape in shapes), None

    def loss(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """L_DE = -D_o - alpha · D_f + beta · L_a, which the generator minimises, and its terms by name. Without a student, as in a
        warm-up without it, only the terms that need no student."""
        o = self.options
        total: Tensor | float = 0.0
        terms: dict[str, Tensor] = {}
        if view.student is not None:
            terms["g_output"] = output = self.output(view)
            total = -torch.log1p(output) if o.log_output else -output
            if self.features is not None:
                terms["g_features"] = self.features(view)
                total = total - o.alpha * terms["g_features"]
        if o.beta:
            terms["g_activity"] = self.activity(view)
            total = total + o.beta * terms["g_activity"]
        if o.bns_weight:
            assert view.teacher is not None
            distance = relative_bns if o.bns_scale == "relative" else self.bns_distance
            terms["g_bns"] = distance(view.teacher.bn)
            total = total + o.bns_weight * terms["g_bns"]
        assert isinstance(total, Tensor)
        return total, terms

    def activity(self, view: View) -> Tensor:
        """L_a = -(1/M) Σ |h_i|_1 over the teacher's last features h (N, C, ...): the larger the features, the lower.

        With ``norm=l1`` M is the number of feature maps (our reading of the paper); with ``mean``, of single values (authors' code).
        """
        assert view.teacher is not None
        last = list(view.teacher.features.values())[-1]
        mean = -last.abs().mean()
        return mean * last[0, 0].numel() if self.options.norm == "l1" else mean
