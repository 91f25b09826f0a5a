"""IntraQ as one plain loop, written from the paper's algorithm without zsq's machinery: the images, then the student on them.

Objective, crops, class centres, the order of things and what is drawn when are spelt out here, image by image where that does
not change bits. Shared with zsq, so that bits can be compared at all: the frozen network that tells the statistics of its
BatchNorm inputs (``RecordedNetwork``, tested in ``plugins/zeroq``), PyTorch's fused optimizers, channels_last, and seeds. Ranges are
watched on the images themselves instead of a generator's, see the plugin's README.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import plain
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zsq_zeroq.fused import RecordedNetwork


@dataclass
class Values:
    """Hyper-parameters of the images, with the paper's weights of 1."""

    batches: int = 3
    batch: int = 8
    iterations: int = 6
    lr: float = 0.5
    patience: int = 50
    eta: float = 0.5
    lambda_l: float = 0.05
    lambda_u: float = 0.8
    eps: float = 0.95


@dataclass
class Made:
    """What came of it, and how often networks ran."""

    images: Tensor
    labels: Tensor
    student: plain.Student
    teacher_forwards: int
    student_forwards: int
    cropped: int = 0
    margins: int = 0


def generator(seed: int, purpose: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def random_boxes(n: int, size: int, least: float, rng: torch.Generator) -> list[tuple[float, float, float, float, bool]]:
    """RandomResizedCrop, box by box: ten attempts at area and aspect, then the whole image; top, left, height, width, mirrored."""
    area, aspect = torch.rand((2, 10, n), generator=rng)
    area = (least + (1 - least) * area) * (size * size)
    low, high = math.log(3 / 4), math.log(4 / 3)
    aspect = torch.exp(low + (high - low) * aspect)
    y, x, mirror = torch.rand((3, n), generator=rng)
    boxes = []
    for i in range(n):
        height = width = float(size)
        for attempt in range(10):
            h = float(torch.round(torch.sqrt(area[attempt, i] / aspect[attempt, i])))
            w = float(torch.round(torch.sqrt(area[attempt, i] * aspect[attempt, i])))
            if 1 <= h <= size and 1 <= w <= size:
                height, width = h, w
                break
        boxes.append(
            (float(torch.floor(y[i] * (size - height + 1))), float(torch.floor(x[i] * (size - width + 1))), height, width, mirror[i] < 0.5)
        )
    return boxes


def crops(images: Tensor, least: float, rng: torch.Generator) -> Tensor:
    """Each image cut to a box of its own, scaled up bilinearly, some mirrored."""
    size = images.shape[-1]
    centres = (torch.arange(size) + 0.5) / size
    out = []
    for image, (top, left, height, width, mirrored) in zip(images, random_boxes(len(images), size, least, rng), strict=True):
        down = torch.clamp(top + torch.clamp(centres * height, min=0.5), max=top + height - 0.5)
        across = torch.clamp(left + torch.clamp(centres * width, min=0.5), max=left + width - 0.5)
        if mirrored:
            across = across.flip(0)
        rows, columns = torch.meshgrid(2 * down / size - 1, 2 * across / size - 1, indexing="ij")
        grid = torch.stack([columns, rows], 2)[None]
        out.append(F.grid_sample(image[None], grid, padding_mode="border", align_corners=False))
    return torch.cat(out).contiguous(memory_format=torch.channels_last)


def train(teacher: nn.Module, seed: int, values: Values, *, watched: int, steps: int, lr: float, milestone: int, bits: int = 4) -> Made:
    """``values.batches`` batches of images one after another; then ranges from ``watched`` batches of crops, then SGD."""
    v, classes = values, teacher.linear.out_features
    teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    seed = int(torch.randint(2**62, (), generator=plain.seeded(seed, "synth")))
    count = Calls(teacher)
    features: list[Tensor] = []
    teacher.linear.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    watching = RecordedNetwork(teacher, False)
    norms = [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    sizes = [m.num_features for m in norms]
    made = Made(torch.empty(0), torch.empty(0), plain.Student(teacher, bits), 0, 0)
    finished: list[tuple[Tensor, Tensor]] = []
    known: dict[int, list[Tensor]] = {}
    for number in range(v.batches):
        first = number * v.batch
        x = torch.randn((v.batch, 3, 8, 8), generator=generator(seed, f"images {first}"))
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        y = torch.randint(classes, (v.batch,), generator=generator(seed, f"labels {first}"))
        if finished:
            centres = class_centres(teacher, *finished[-1], features, known, classes)
        rng = generator(seed, f"crops {first}")
        softened = torch.rand(v.batch, generator=rng) < 0.5
        t = torch.where(softened, v.eps + (1 - v.eps) * torch.rand(v.batch, generator=rng), 1.0)
        boxes = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=rng)))
        adam = torch.optim.Adam([x], torch.tensor(v.lr, dtype=torch.float64), fused=True)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, patience=v.patience, min_lr=1e-4)
        for _ in range(v.iterations):
            crop = bool(torch.rand((), generator=rng) < 0.5)
            made.cropped += crop
            features.clear()
            z, seen = watching(crops(x, v.eta, boxes) if crop else x)
            means, variances = seen.mean.split(sizes), seen.var.split(sizes)
            bns = torch.zeros(())
            for m, mean, var in zip(norms, means, variances, strict=True):
                bns = bns + (F.mse_loss(mean, m.running_mean) + F.mse_loss(var, m.running_var)) / len(norms)
            p = torch.softmax(z, 1)[torch.arange(v.batch), y]
            loss = bns + ((p - t) ** 2).mean()
            if finished:
                has = torch.tensor([int(label) in known for label in y])
                d = 1 - F.cosine_similarity(features[0][has], centres[y[has]], 1)
                loss = loss + (torch.relu(v.lambda_l - d) + torch.relu(d - v.lambda_u)).mean()
                made.margins += int(((d < v.lambda_l) | (d > v.lambda_u)).sum())
            adam.zero_grad()
            loss.backward()
            adam.step()
            plateau.step(loss.item())
        finished.append((x.detach(), y))
    made.images, made.labels = torch.cat([x for x, _ in finished]), torch.cat([y for _, y in finished])
    tune(teacher, made, seed, v, watched, steps, lr, milestone)
    made.teacher_forwards = count.calls
    return made


def class_centres(teacher: nn.Module, x: Tensor, y: Tensor, features: list[Tensor], known: dict[int, list[Tensor]], classes: int) -> Tensor:
    """Of each class the sum of features of finished images, which points where the mean does; (classes, F). ``known`` grows by (x, y)."""
    features.clear()
    with torch.no_grad():
        teacher(x)
    one_hot = torch.zeros(classes, len(y))
    one_hot[y, torch.arange(len(y))] = 1.0
    sums = one_hot @ features[0]
    for label in y.unique().tolist():
        known.setdefault(label, []).append(sums[label])
    zero = torch.zeros(features[0].shape[1])
    return torch.stack([torch.stack(known[label]).sum(0) if label in known else zero for label in range(classes)])


def tune(teacher: nn.Module, made: Made, seed: int, v: Values, watched: int, steps: int, lr: float, milestone: int) -> None:
    """Ranges, then SGD on CE + 20 · T² KL with T = 20, on crops of the images in shuffled epochs."""
    student, order = made.student, generator(seed, "order")
    boxes = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator(seed, "augment"))))
    sgd = torch.optim.SGD(student.net.parameters(), lr, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True)
    left: list[int] = []
    for step in range(-watched, steps):
        if len(left) < v.batch:
            left = torch.randperm(len(made.images), generator=order).tolist()
        taken, left = left[: v.batch], left[v.batch :]
        x, y = crops(made.images[taken], 0.5, boxes), made.labels[taken]
        made.student_forwards += 1
        if step < 0:
            with torch.no_grad():
                student(x, watch=True)
            continue
        if student.ranges is None:
            student.ranges = [tracker.read() for tracker in student.trackers]
        for group in sgd.param_groups:
            group["lr"] = lr * (0.1 if step >= milestone else 1)
        z_p, z_q = teacher(x), student(x)
        divergence = F.kl_div(F.log_softmax(z_q / 20, 1), F.softmax(z_p / 20, 1), reduction="sum") / len(z_q)
        loss = plain.cross_entropy(z_q, y) + 20 * (20**2 * divergence)
        sgd.zero_grad()
        loss.backward()
        sgd.step()


class Calls:
    """Counts the forward passes of a network."""

    def __init__(self, module: nn.Module) -> None:
        self.calls = 0
        self.handle = module.register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))
