"""GDFQ and Qimera as one plain loop each, written from the papers' algorithm without zsq's machinery.

Generator, quantizer, range tracking, losses and the order of things are spelt out here. Shared with zsq, so that bits can be
compared at all: the kernel that takes mean and variance (``channel_stats``, tested in ``tests/run``), PyTorch's fused
optimizers, channels_last, and seeds. Ranges are those of the correctly debiased tracker, watched behind unquantized
activations; the authors' tracker compounds its correction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsq.training import channel_stats

BATCH = 8
LATENT = 6
CHANNELS = 8
TEMPERATURE = 20.0


def seeded(seed: int, key: str) -> torch.Generator:
    """The generator that a run of ``seed`` gives to the component ``key``."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:7], "big"))


class Stack(nn.Module):
    """From a code to an image of 8 x 8: linear, BatchNorm, twice (upsample, convolution, BatchNorm, leaky ReLU), convolution,
    tanh, BatchNorm without affine."""

    def __init__(self, code: int, eps: float = 0.8) -> None:
        super().__init__()
        self.linear = nn.Linear(code, CHANNELS * 2 * 2)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(CHANNELS),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1),
            nn.BatchNorm2d(CHANNELS, eps),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(CHANNELS, CHANNELS // 2, 3, 1, 1),
            nn.BatchNorm2d(CHANNELS // 2, eps),
            nn.LeakyReLU(0.2),
            nn.Conv2d(CHANNELS // 2, 3, 3, 1, 1),
            nn.Tanh(),
            nn.BatchNorm2d(3, affine=False),
        )

    def forward(self, code: Tensor) -> Tensor:
        x = self.linear(code).reshape(len(code), CHANNELS, 2, 2)
        return self.layers(x.contiguous(memory_format=torch.channels_last))


class GdfqGenerator(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, LATENT)
        self.stack = Stack(LATENT)

    def draw(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        z = torch.randn((BATCH, LATENT), generator=rng)
        y = torch.randint(self.embedding.num_embeddings, (BATCH,), generator=rng)
        return self.stack(self.embedding(y) * z), y


class QimeraGenerator(nn.Module):
    """With the disentanglement mapping; embeddings from the teacher's last layer."""

    def __init__(self, rows: Tensor, p: float, k: int, mapped: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(*rows.shape)
        self.embedding.weight = nn.Parameter(rows.clone())
        self.mapping = nn.Linear(rows.shape[1], mapped)
        self.stack = Stack(mapped)
        self.p, self.k = p, k

    def draw(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        classes, width = self.embedding.weight.shape
        k = self.k if torch.rand((), generator=rng) < self.p else 1
        y = torch.randint(classes, (BATCH, k), generator=rng)
        share = torch.softmax(torch.randn((BATCH, k), generator=rng), 1)
        e = self.embedding(y) + torch.randn((BATCH, k, width), generator=rng)
        e = F.layer_norm(e, (width,))
        code = (share[:, :, None] * self.mapping(e)).sum(1)
        target = torch.zeros(BATCH, classes)
        for image in range(BATCH):
            for slot in range(k):
                target[image, y[image, slot]] += share[image, slot]
        return self.stack(code), target


def quantized(x: Tensor, lo: Tensor, hi: Tensor, bits: int) -> Tensor:
    """Asymmetric uniform values with integer zero point; the gradient is copied through unchanged."""
    top = 2**bits - 1
    scale = (hi - lo).clamp_min(1e-8) / top
    zero = torch.round(-lo * (1 / scale))
    value = (torch.clamp(torch.round(x * (1 / scale)) + zero, 0, top) - zero) * scale
    return value.detach() + (x - x.detach())


def quantized_weight(w: Tensor, bits: int) -> Tensor:
    """Each output channel between its own minimum and maximum, from the weight as it is."""
    flat = w.detach().flatten(1)
    shape = (-1,) + (1,) * (w.dim() - 1)
    return quantized(w, flat.amin(1).reshape(shape), flat.amax(1).reshape(shape), bits)


class Tracker:
    """Moving average of a batch's largest value, corrected for its start at zero when it is read; ReLUs end at 0 below."""

    def __init__(self) -> None:
        self.raw, self.updates = 0.0, 0

    def watch(self, x: Tensor) -> None:
        self.raw = 0.9 * self.raw + (1 - 0.9) * float(x.max())
        self.updates += 1

    def read(self) -> Tensor:
        return torch.tensor(self.raw / (1 - 0.9**self.updates), dtype=torch.float64).float()


class Student:
    """The teacher's copy with every weight on a grid, and every ReLU's output once ``ranges`` are known."""

    def __init__(self, teacher: nn.Module, bits: int) -> None:
        self.net, self.bits = deepcopy(teacher).eval().requires_grad_(True), bits
        self.trackers = (Tracker(), Tracker())
        self.ranges: list[Tensor] | None = None

    def __call__(self, x: Tensor, watch: bool = False) -> Tensor:
        n = self.net
        x = self._act(0, F.relu(n.bn1(F.conv2d(x, quantized_weight(n.conv1.weight, self.bits), padding=1))), watch)
        x = self._act(1, F.relu(n.bn2(F.conv2d(x, quantized_weight(n.conv2.weight, self.bits), padding=1))), watch)
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return F.linear(x, quantized_weight(n.linear.weight, self.bits), n.linear.bias)

    def _act(self, site: int, x: Tensor, watch: bool) -> Tensor:
        if watch:
            self.trackers[site].watch(x)
        return x if self.ranges is None else quantized(x, torch.zeros(()), self.ranges[site], self.bits)


@dataclass
class Trained:
    generator: nn.Module
    student: Student
    teacher_forwards: int


def train(teacher: nn.Module, build: Callable[[], nn.Module], rng: torch.Generator, *, warmup: int, watched: int, steps: int, lr: float,
          milestone: int, bits: int = 4) -> Trained:  # fmt: skip
    """Warm-up of the generator, its last ``watched`` steps with range tracking, then both in turn; one x and one z_p an iteration."""
    teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        generator = build()
    generator.to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(generator.parameters(), 1e-3, (0.5, 0.999), fused=True)
    student = Student(teacher, bits)
    sgd = torch.optim.SGD(student.net.parameters(), lr, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True)
    statistics: list[Tensor] = []
    norms = [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_pre_hook(lambda m, inputs: statistics.append(_distance(m, inputs[0])))
    forwards = 0
    for iteration in range(warmup + watched + steps):
        statistics.clear()
        x, y = generator.draw(rng)
        z_p = teacher(x)
        forwards += 1
        loss = cross_entropy(z_p, y) + 0.1 * (sum(statistics) / len(norms))
        adam.zero_grad()
        loss.backward()
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
        for group in sgd.param_groups:
            group["lr"] = lr * (0.1 if iteration - warmup - watched >= milestone else 1)
        z_q = student(x)
        divergence = F.kl_div(F.log_softmax(z_q / TEMPERATURE, 1), F.softmax(z_p / TEMPERATURE, 1), reduction="sum") / z_q.numel()
        loss = cross_entropy(z_q, y) + TEMPERATURE**2 * divergence
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return Trained(generator, student, forwards)


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """With class numbers or with distributions; mean over images."""
    log = F.log_softmax(z, 1)
    chosen = log.gather(1, y[:, None]).squeeze(1) if y.dim() == 1 else (y * log).sum(1)
    return -chosen.mean()


def _distance(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, var = channel_stats(x)
    return F.mse_loss(mean, norm.running_mean) + F.mse_loss(var, norm.running_var)
