"""AdaDFQ as one plain loop, from its sheet's equations; generator, student, range tracking and seeds are those of ``plain``.

The loss's backward runs through every weight of the student, whose gradients are then thrown away. Entropies are written as
what they lack to log C, which a unit test of the plugin proves equal to the published form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import plain
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 20.0


class Counted(plain.Student):
    """A student that counts how often it is asked."""

    forwards = 0

    def __call__(self, x: Tensor, watch: bool = False) -> Tensor:
        self.forwards += 1
        return super().__call__(x, watch)


@dataclass
class Trained:
    generator: nn.Module
    student: Counted
    teacher_forwards: int


def lacking(d: Tensor) -> Tensor:
    """log C - H(softmax(d)) for every row: the sum of p (log p + log C)."""
    log_p = torch.log_softmax(d, dim=1)
    return (torch.exp(log_p) * (log_p + math.log(d.shape[1]))).sum(dim=1)


def generator_loss(z_p: Tensor, z_q: Tensor, y: Tensor, bns: Tensor, alpha_ds: float, alpha_as: float, lo: float, hi: float) -> Tensor:
    """L_m + L_bal + L_BNS with beta = gamma = 1."""
    lack = lacking(z_p - z_q)
    h = 1 - lack / lack.max()  # (H - min H) / (log C - min H)
    margin = torch.clamp(lo - h, min=0).mean() + torch.clamp(h - hi, min=0).mean()
    disagreeing, agreeing = [], []
    for i in range(len(y)):
        if z_p[i].argmax() != y[i]:
            continue
        if z_q[i].argmax() == y[i]:
            agreeing.append(-torch.log_softmax((z_p + z_q)[i], 0)[y[i]])
        else:
            disagreeing.append(-torch.log_softmax((z_p - z_q)[i], 0)[y[i]])
    of_ds, of_as = (torch.stack(chosen).mean() if chosen else torch.zeros(()) for chosen in (disagreeing, agreeing))
    return margin + (alpha_ds * of_ds + alpha_as * of_as) + bns


def train(teacher: nn.Module, rng: torch.Generator, *, warmup: int, watched: int, steps: int, lr: float, milestone: int, alpha_ds: float,
          alpha_as: float, lo: float, hi: float, bits: int) -> Trained:  # fmt: skip
    """Warm-up of the generator, its last ``watched`` steps with range tracking, then both in turn."""
    teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        generator = plain.GdfqGenerator(teacher.linear.out_features)
    generator.to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(generator.parameters(), 1e-3, (0.5, 0.999), fused=True)
    student = Counted(teacher, bits)
    sgd = torch.optim.SGD(student.net.parameters(), lr, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True)
    statistics: list[Tensor] = []
    norms = [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_pre_hook(lambda m, inputs: statistics.append(_distance(m, inputs[0])))
    forwards = 0
    for iteration in range(warmup + watched + steps):
        if iteration == warmup + watched:
            student.ranges = [tracker.read() for tracker in student.trackers]
        statistics.clear()
        x, y = generator.draw(rng)
        z_p, z_q = teacher(x), student(x)
        forwards += 1
        adam.zero_grad()
        generator_loss(z_p, z_q, y, sum(statistics) / len(norms), alpha_ds, alpha_as, lo, hi).backward()
        adam.step()
        x, z_p = x.detach(), z_p.detach()
        if iteration < warmup:
            continue
        if iteration < warmup + watched:
            with torch.no_grad():
                student(x, watch=True)
            continue
        for group in sgd.param_groups:
            group["lr"] = lr * (0.1 if iteration - warmup - watched >= milestone else 1)
        sgd.zero_grad()
        (TEMPERATURE**2 * lacking((z_p - student(x)) / TEMPERATURE).mean()).backward()
        sgd.step()
    return Trained(generator, student, forwards)


def _distance(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, var = plain.channel_stats(x)
    return F.mse_loss(mean, norm.running_mean) + F.mse_loss(var, norm.running_var)
