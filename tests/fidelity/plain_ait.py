"""GDFQ with AIT as one plain loop, written from the algorithm without zsq's machinery: see ``plain`` for what is shared.

Generator, quantizer and range tracking are those of ``plain``; the student's loss is the divergence alone, and every weight
tensor looks for the length of its own step, one probe after the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from plain import TEMPERATURE, GdfqGenerator, Student, Trained, _distance, cross_entropy
from torch import Tensor, nn

MOMENTUM = 0.9
DOUBLINGS = 12


class Inundated:
    """One weight tensor, its momentum, and the lengths of its steps."""

    def __init__(self, weight: nn.Parameter, bits: int, upper: bool) -> None:
        self.weight, self.bits, self.upper = weight, bits, upper
        self.buffer: Tensor | None = None
        self.kappas: list[float] = []

    @torch.no_grad()
    def step(self, lr: float, rho: float) -> None:
        g = self.weight.grad
        self.buffer = g.clone() if self.buffer is None else MOMENTUM * self.buffer + g
        direction = g + MOMENTUM * self.buffer
        kappa = self.search(lr, rho, direction)
        self.kappas.append(kappa)
        self.weight -= (kappa * lr) * direction

    def search(self, lr: float, rho: float, direction: Tensor) -> float:
        def f(kappa: float) -> float:
            moved = self.weight - (kappa * lr) * direction
            return float((codes(moved, self.bits) != codes(self.weight, self.bits)).sum()) / moved.numel()

        kappa = 1.0
        if f(kappa) >= rho:
            return kappa
        while f(kappa) < rho:
            assert kappa < 2**DOUBLINGS, "the tests keep away from the bound"
            kappa *= 2
        low, high = kappa / 2, kappa
        for _ in range(5):
            middle = (low + high) / 2
            share = f(middle)
            low, high = (low, middle) if share >= rho else (middle, high)
            if abs(share - rho) < 0.01 * rho and not (self.upper and share < rho):
                break
        return high if self.upper else middle


def codes(weight: Tensor, bits: int) -> Tensor:
    """Integer codes between every output channel's own minimum and maximum."""
    flat = weight.flatten(1)
    lo, hi = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    inverse = 1 / ((hi - lo).clamp_min(1e-8) / (2**bits - 1))
    return torch.clamp(torch.round(flat * inverse) + torch.round(-lo * inverse), 0, 2**bits - 1).reshape(weight.shape)


def train(teacher: nn.Module, rng: torch.Generator, classes: int, *, warmup: int, watched: int, steps: int, lr: float, rho: float,
          milestone: int, upper: bool, bits: int = 4) -> tuple[Trained, list[Inundated]]:  # fmt: skip
    """As ``plain.train``; from ``milestone`` on, learning rate and share are a tenth."""
    teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        generator = GdfqGenerator(classes)
    generator.to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(generator.parameters(), 1e-3, (0.5, 0.999), fused=True)
    student = Student(teacher, bits)
    n = student.net
    quantized = [n.conv1.weight, n.conv2.weight, n.linear.weight]
    inundated = [Inundated(weight, bits, upper) for weight in quantized]
    rest = [n.bn1.weight, n.bn1.bias, n.bn2.weight, n.bn2.bias, n.linear.bias]
    sgd = torch.optim.SGD(rest, lr, momentum=MOMENTUM, nesterov=True, fused=True)
    statistics: list[Tensor] = []
    norms = [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_pre_hook(lambda m, inputs: statistics.append(_distance(m, inputs[0])))
    for iteration in range(warmup + watched + steps):
        statistics.clear()
        x, y = generator.draw(rng)
        z_p = teacher(x)
        adam.zero_grad()
        (cross_entropy(z_p, y) + 0.1 * (sum(statistics) / len(norms))).backward()  # the generator keeps its cross-entropy
        adam.step()
        x, z_p = x.detach(), z_p.detach()
        if iteration < warmup:
            continue
        if iteration < warmup + watched:
            with torch.no_grad():
                student(x, watch=True)
            continue
        if student.ranges is None:
            student.ranges = [tracker.read() for tracker in student.trackers]
        falls = 0.1 if iteration - warmup - watched >= milestone else 1
        n.zero_grad()
        z_q = student(x)
        divergence = F.kl_div(F.log_softmax(z_q / TEMPERATURE, 1), F.softmax(z_p / TEMPERATURE, 1), reduction="sum") / z_q.numel()
        (TEMPERATURE**2 * divergence).backward()
        for weight in inundated:
            weight.step(lr * falls, rho * falls)
        sgd.param_groups[0]["lr"] = lr * falls
        sgd.step()
    return Trained(generator, student, warmup + watched + steps), inundated
