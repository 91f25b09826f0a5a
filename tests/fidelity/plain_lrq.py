"""LRQ as one plain loop, written from the method without zsq's machinery: stage 1 with the margin, the long-range generator,
calibration, and the student on CE + TCKD + 8 NCKD.

Beyond what ``plain`` shares with zsq, so that bits can be compared, stage 1 shares two operations: the one that normalises and takes
statistics (``RecordedNetwork``, tested in ``plugins/zeroq``), and the crops (``draw`` and ``crop``, tested in ``plugins/intraq``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from plain import BATCH, CHANNELS, LATENT, Stack, Student, cross_entropy, seeded
from torch import Tensor, nn
from zsq_intraq.crops import crop, draw
from zsq_zeroq.fused import RecordedNetwork

from zsq.training import channel_stats

MARGIN, T_MIN, LOWER, UPPER, AREA = 0.5, 0.95, 0.05, 0.8, 0.5
PIXEL_LR, GENERATOR_LR, BNS_WEIGHT = 0.5, 1e-3, 0.1


@dataclass(frozen=True)
class Plan:
    """``mode`` is stage1, generator or both; ``sign`` that of the margin; ``block`` puts attention behind the first block."""

    mode: str
    sign: int
    block: bool
    images: int
    iterations: int
    warmup: int
    watched: int
    steps: int
    lr: float


@dataclass
class Trained:
    student: Student
    generator: nn.Module
    images: Tensor | None = None
    targets: Tensor | None = None
    counts: dict[str, int] = field(default_factory=dict)


class Attention(nn.Module):
    """Kernel 21, dilation 3: depthwise 5 x 5, depthwise 7 x 7 with dilation 3, 1 x 1; an elementwise product; a residual."""

    def __init__(self) -> None:
        super().__init__()
        c = CHANNELS
        self.before = nn.Conv2d(c, c, 1)
        self.layers = nn.Sequential(
            nn.Conv2d(c, c, 5, padding=2, groups=c), nn.Conv2d(c, c, 7, padding=9, dilation=3, groups=c), nn.Conv2d(c, c, 1)
        )
        self.after = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.before(x))
        return x + self.after(y * self.layers(y))


class LongRangeGenerator(nn.Module):
    def __init__(self, classes: int, block: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, LATENT)
        self.stack = Stack(LATENT)
        self.attention = Attention()
        self.cut = 5 if block else 2  # BatchNorm, upsampling; and convolution, BatchNorm, leaky ReLU

    def draw(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        z = torch.randn((BATCH, LATENT), generator=rng)
        y = torch.randint(self.embedding.num_embeddings, (BATCH,), generator=rng)
        x = self.stack.linear(self.embedding(y) * z).reshape(BATCH, CHANNELS, 2, 2)
        x = x.contiguous(memory_format=torch.channels_last)
        for number, layer in enumerate(self.stack.layers):
            if number == self.cut:
                x = self.attention(x)
            x = layer(x)
        return x, y


class Pool:
    """Stage 1, and the shuffled epochs of crops that it is handed out in."""

    def __init__(self, teacher: nn.Module, classes: int, seed: int, plan: Plan) -> None:
        self.teacher, self.classes, self.seed, self.plan = teacher, classes, seed, plan
        self.watched = RecordedNetwork(teacher, False)
        self.norms = list(self.watched.norms.values())
        rng = seeded(seed, "augment")
        self.boxes = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=rng)))
        self.order = seeded(seed, "order")
        self.left = torch.empty(0, dtype=torch.int64)
        self.images, self.targets = torch.empty(0), torch.empty(0, dtype=torch.int64)

    def make(self) -> None:
        rng = seeded(self.seed, "classes")
        labels = torch.cat([torch.randperm(self.classes, generator=rng) for _ in range(self.plan.images // self.classes)])
        images: list[Tensor] = []
        totals = torch.zeros(self.classes, self.teacher.linear.in_features)
        numbers = [0] * self.classes
        for first in range(0, self.plan.images, BATCH):
            y = labels[first : first + BATCH]
            centres = {c: totals[c] / numbers[c] for c in range(self.classes) if numbers[c]}
            images.append(self.batch(first, y, centres))
            if first + BATCH < self.plan.images:
                with torch.no_grad():
                    features = self.inside(images[-1], self.teacher)[0]
                for c in range(self.classes):
                    totals[c] += features[y == c].sum(0)
                    numbers[c] += int((y == c).sum())
        self.images, self.targets = torch.cat(images), labels

    def batch(self, first: int, y: Tensor, centres: dict[int, Tensor]) -> Tensor:
        x = torch.randn((BATCH, 3, 8, 8), generator=seeded(self.seed, f"images {first}"))
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        rng = seeded(self.seed, f"crops {first}")
        soft = torch.rand(BATCH, generator=rng) < 0.5
        t = torch.where(soft, T_MIN + (1 - T_MIN) * torch.rand(BATCH, generator=rng), 1.0)
        boxes = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=rng)))
        adam = torch.optim.Adam([x], PIXEL_LR, fused=True)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, patience=50, min_lr=1e-4)
        for _ in range(self.plan.iterations):
            cropped = float(torch.rand((), generator=rng)) < 0.5
            view = crop(x, draw(BATCH, (8, 8), AREA, boxes)) if cropped else x
            v, (z, stats) = self.inside(view, self.watched)
            loss = self.statistics(stats)
            p = F.softmax(z, 1).gather(1, y[:, None]).squeeze(1)
            loss = loss + (p - t).square().mean()
            if centres:
                assert set(y.tolist()) <= set(centres)
                cos = F.cosine_similarity(v, torch.stack([centres[c] for c in y.tolist()]), 1)
                cos = cos.clamp(-1 + 1e-6, 1 - 1e-6)
                d = 1 - (cos * math.cos(MARGIN) - self.plan.sign * math.sin(MARGIN) * (1 - cos.square()).sqrt())
                loss = loss + (F.relu(LOWER - d) + F.relu(d - UPPER)).mean()
            adam.zero_grad()
            loss.backward(inputs=[x])
            adam.step()
            plateau.step(loss.detach())
        return x.detach()

    def statistics(self, seen: object) -> Tensor:
        """Mean over layers of MSE(mean) + MSE(variance), from the statistics of all layers side by side."""
        sizes = [len(norm.running_mean) for norm in self.norms]
        pairs = zip(seen.mean.split(sizes), seen.var.split(sizes), self.norms, strict=True)
        return sum(F.mse_loss(m, n.running_mean) + F.mse_loss(v, n.running_var) for m, v, n in pairs) / len(self.norms)

    def inside(self, x: Tensor, run: object) -> tuple[Tensor, object]:
        """What enters the last layer, and what ``run`` gives."""
        kept: list[Tensor] = []
        handle = self.teacher.linear.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        out = run(x)
        handle.remove()
        return kept[0], out

    def deal(self) -> tuple[Tensor, Tensor]:
        if len(self.left) < BATCH:
            self.left = torch.randperm(len(self.images), generator=self.order)
        taken, self.left = self.left[:BATCH], self.left[BATCH:]
        x = self.images[taken].contiguous(memory_format=torch.channels_last)
        return crop(x, draw(BATCH, (8, 8), AREA, self.boxes)), self.targets[taken]


def dkd(z_s: Tensor, z_t: Tensor, y: Tensor) -> Tensor:
    """TCKD + 8 NCKD at temperature 1, mean over images."""
    (b_s, o_s), (b_t, o_t) = ((_log(z, y)) for z in (z_s, z_t))
    return (_kl(b_t, b_s) + 8 * _kl(o_t, o_s)) / len(y)


def _log(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    target = F.one_hot(y, z.shape[1]).bool()
    others = z[~target].reshape(len(z), -1)
    rest = torch.logsumexp(others, 1)
    return F.log_softmax(torch.stack([z[target], rest], 1), 1), others - rest[:, None]


def _kl(goal: Tensor, ours: Tensor) -> Tensor:
    return (goal.exp() * (goal - ours)).sum()


def train(teacher: nn.Module, classes: int, seed: int, plan: Plan) -> Trained:
    """Stage 1; the generator alone; the generator while ranges are watched; the student."""
    teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    counts = {"teacher": 0, "student": 0, "generator": 0}
    teacher.register_forward_hook(lambda *_: counts.update(teacher=counts["teacher"] + 1))
    rng = seeded(seed, "synth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        generator = LongRangeGenerator(classes, plan.block).to(memory_format=torch.channels_last)
    pool = None
    if plan.mode != "generator":
        pool = Pool(teacher, classes, int(torch.randint(2**62, (), generator=rng)), plan)
        pool.make()
    adam = torch.optim.Adam(generator.parameters(), GENERATOR_LR, (0.5, 0.999), fused=True)
    student = Student(teacher, 4)
    sgd = torch.optim.SGD(student.net.parameters(), plan.lr, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True)

    def generate() -> tuple[Tensor, Tensor, Tensor]:
        x, y = generator.draw(rng)
        distances: list[Tensor] = []
        norms = [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
        handles = [n.register_forward_pre_hook(lambda m, inputs: distances.append(_distance(m, inputs[0]))) for n in norms]
        z = teacher(x)
        for handle in handles:
            handle.remove()
        adam.zero_grad()
        (cross_entropy(z, y) + BNS_WEIGHT * (sum(distances) / len(norms))).backward()
        adam.step()
        counts["generator"] += 1
        return x.detach(), y, z.detach()

    def deal() -> tuple[Tensor, Tensor, Tensor]:
        x, y = pool.deal()
        return x, y, teacher(x)

    for _ in range(plan.warmup):
        generate()
    for pull in range(plan.watched + plan.steps):
        tuned = pull >= plan.watched
        staged = {"stage1": tuned, "generator": False, "both": pull % 2 == 1}[plan.mode]
        if not tuned:
            x = pool.deal()[0] if staged else generate()[0]
            with torch.no_grad():
                student(x, watch=True)
            counts["student"] += 1
            continue
        if student.ranges is None:
            student.ranges = [tracker.read() for tracker in student.trackers]
        x, y, z_t = deal() if staged else generate()
        z_s = student(x)
        counts["student"] += 1
        sgd.zero_grad()
        (cross_entropy(z_s, y) + dkd(z_s, z_t, y)).backward()
        sgd.step()
    images, targets = (pool.images, pool.targets) if pool else (None, None)
    return Trained(student, generator, images, targets, counts)


def _distance(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, var = channel_stats(x)
    return F.mse_loss(mean, norm.running_mean) + F.mse_loss(var, norm.running_var)
