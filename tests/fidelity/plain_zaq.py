"""ZAQ as one plain loop, written from the method's description without zsq's machinery.

Network, generator, losses, quantization, ranges and the order of the two players are spelt out here. Shared with zsq, so that bits
can be compared at all: PyTorch's fused attention kernel and optimizers, channels_last, and seeds.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from plain import BATCH, LATENT, Stack, quantized, quantized_weight
from torch import Tensor, nn

CLASSES = 4
SHAPE = (3, 8, 8)
EPS = 1e-6


class Stage(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Net(nn.Module):
    """Three stages, whose outputs are the taps; all counts are powers of two."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2, self.stage3 = Stage(3, 8, 1), Stage(8, 8, 2), Stage(8, 16, 1)
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def net() -> Net:
    """Always the same weights, with BatchNorm statistics of noise."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(12)
        module = Net()
        module.linear.weight.mul_(6)
        for stage in (module.stage1, module.stage2, module.stage3):
            stage.bn.momentum = 1.0
            stage.bn.weight.uniform_(0.5, 1.5)
        module(torch.randn(64, *SHAPE))
        for stage in (module.stage1, module.stage2, module.stage3):
            stage.bn.momentum = 0.1
    return module.eval()


class Student:
    """The teacher's copy, weights on grids, every ReLU's output on one once a range is known."""

    def __init__(self, teacher: Net, bits: int) -> None:
        self.net, self.bits = deepcopy(teacher).eval().requires_grad_(True), bits
        self.seen: list[Tensor | None] = [None] * 3
        self.ranges: list[Tensor | None] = [None] * 3
        self.forwards = 0

    def __call__(self, x: Tensor, watch: bool = False) -> tuple[Tensor, list[Tensor]]:
        self.forwards += 1
        features = []
        for i, stage in enumerate((self.net.stage1, self.net.stage2, self.net.stage3)):
            conv = stage.conv
            x = F.relu(stage.bn(F.conv2d(x, quantized_weight(conv.weight, self.bits), None, conv.stride, conv.padding)))
            if watch:
                self.seen[i] = x.detach().max() if self.seen[i] is None else torch.maximum(self.seen[i], x.detach().max())
            if self.ranges[i] is not None:
                x = quantized(x, torch.zeros(()), self.ranges[i], self.bits)
            features.append(x)
        pooled = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return F.linear(pooled, quantized_weight(self.net.linear.weight, self.bits), self.net.linear.bias), features

    def adopt(self) -> None:
        """What was seen becomes the range."""
        self.ranges = list(self.seen)


@dataclass
class Settings:
    """What is played: ``steps`` of the student, one of the generator before every fifth batch but the first."""

    steps: int
    alpha: float
    beta: float
    lr: float
    weight_decay: float
    milestones: tuple[int, ...]
    generator_milestones: tuple[int, ...]
    watched: int = 0
    summed: bool = False
    scrm: bool = False
    last: bool = True
    train_batch_norm: bool = False
    watch: bool = False


@dataclass
class Played:
    generator: nn.Module
    student: Student
    teacher_forwards: int = 0
    generator_steps: int = 0
    batches: int = field(default=0)


def play(teacher: Net, rng: torch.Generator, s: Settings, bits: int = 4) -> Played:
    """The game: five student steps on fresh noise, then one generator step on fresh noise, and so on."""
    teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        generator = Stack(LATENT, 1e-5)
    generator.to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(generator.parameters(), 1e-3, (0.9, 0.999), fused=True)
    student = Student(teacher, bits)
    sgd = torch.optim.SGD(student.net.parameters(), s.lr, momentum=0.9, weight_decay=s.weight_decay, fused=True)
    played = Played(generator, student)

    def ask(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        played.teacher_forwards += 1
        features = []
        for stage in (teacher.stage1, teacher.stage2, teacher.stage3):
            x = stage(x)
            features.append(x)
        return teacher.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)), features

    def discrepancies(x: Tensor, watch: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        p, ours = ask(x)
        q, theirs = student(x, watch)
        output = (q - p).abs().mean() * (CLASSES if s.summed else 1)
        pairs = list(zip(theirs, ours, strict=True))[: 3 if s.last else 2]
        layers = torch.stack([attended(a, b) if s.scrm else related(a, b) for a, b in pairs])
        weights = torch.ones(len(layers)) if s.scrm else len(layers) * layers.detach().softmax(0)
        return output, (weights * layers).sum(), ours[-1]

    def next_batch() -> Tensor:
        if played.batches and played.batches % 5 == 0:
            generator_step()
        played.batches += 1
        with torch.no_grad():
            return generator(torch.randn((BATCH, LATENT), generator=rng))

    def generator_step() -> None:
        for group in adam.param_groups:
            group["lr"] = 1e-3 * 0.1 ** sum(played.generator_steps >= m for m in s.generator_milestones)
        x = generator(torch.randn((BATCH, LATENT), generator=rng))
        with torch.enable_grad():
            output, features, last = discrepancies(x, s.watch)
        activity = -last.abs().mean() * (last[0, 0].numel() if s.summed else 1)
        loss = -output - s.alpha * features + s.beta * activity
        adam.zero_grad()
        loss.backward(inputs=list(generator.parameters()))
        adam.step()
        if s.watch:
            student.adopt()
        played.generator_steps += 1

    for _ in range(s.watched):
        x = next_batch()
        with torch.no_grad():
            student(x, watch=True)
    if s.watched:
        student.adopt()
    for stage in (student.net.stage1, student.net.stage2, student.net.stage3):
        stage.bn.train(s.train_batch_norm)
    for step in range(s.steps):
        x = next_batch()
        for group in sgd.param_groups:
            group["lr"] = s.lr * 0.1 ** sum(step >= m for m in s.milestones)
        output, features, _ = discrepancies(x)
        sgd.zero_grad()
        (output + s.alpha * features).backward()
        sgd.step()
    return played


def related(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the cosines between channels."""
    maps = []
    for x in (a, b):
        x = x.flatten(2)
        products = x @ x.transpose(1, 2)
        squares = torch.diagonal(products, dim1=1, dim2=2)
        inverse = torch.where(squares < EPS**2, torch.zeros(()), squares.clamp_min(EPS**2).rsqrt())
        maps.append(products * inverse[:, :, None] * inverse[:, None, :])
    return (maps[0] - maps[1]).abs().mean()


def attended(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute differences of spatially and of channelwise attended features, added."""
    spatial, channel = [], []
    for x in (a, b):
        x = x.flatten(2)
        norm = x.norm(dim=1, keepdim=True)
        x = torch.where(norm < EPS, torch.zeros(()), x / norm.clamp_min(EPS))
        pixels = x.transpose(1, 2).unsqueeze(1).contiguous()
        mixed = F.scaled_dot_product_attention(pixels, pixels, pixels, scale=1.0)
        spatial.append(0.1 * mixed.squeeze(1).transpose(1, 2) + x)
        channel.append(0.1 * torch.softmax(-(x @ x.transpose(1, 2)), 2) @ x + x)
    return (spatial[0] - spatial[1]).abs().mean() + (channel[0] - channel[1]).abs().mean()
