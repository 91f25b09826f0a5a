"""Measures teacher and student on the same images: weights, activations, BatchNorm statistics, outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zsq.images import distinct
from zsq.points import Gridded, QuantPoint
from zsq.protocols import Drawn
from zsq.training import batch_norms
from zsq.types import Context, Student, Teacher
from zsq_report.answers import DRAWN, Answers, draw
from zsq_report.histogram import Histogram, of_range
from zsq_report.hooks import hooked, module_at
from zsq_report.outputs import Outputs, decibels
from zsq_report.statistics import Statistics

#: Images that are looked at and images in one forward: up to 64 x 64 pixels, and above; of more than 224 x 224 one forward is enough.
COUNT, BATCH = (128, 64), (8, 4)
#: Images that are drawn at least: those that are not looked at are only shown.
SHOWN = 32


@dataclass
class Weights:
    """One layer with a quantized weight.

    ``sqnr`` compares the student's weight with the teacher's, ``output_sqnr`` what the two layers give out for the same images,
    all errors before them included: in dB; None if there is nothing to compare. ``clipped`` is the share of the teacher's
    weights beyond the range in percent, None if they were moved. ``moved`` says that the weight is farther from the teacher's
    than twice what rounding explains: equalized, or tuned far.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    bits: int
    lo: float
    hi: float
    low: float | None = None
    high: float | None = None
    clipped: float | None = None
    sqnr: float | None = None
    output_sqnr: float | None = None
    moved: bool = False
    histogram: Histogram | None = None


@dataclass
class Activation:
    """One activation on a grid: its range, the extremes of what arrived there, the share beyond the range in percent, and signal to
    quantization noise of this point alone in dB."""

    path: str
    bits: int
    lo: float
    hi: float
    low: float = math.inf
    high: float = -math.inf
    outside: float = 0.0
    values: int = 0
    signal: float = 0.0
    noise: float = 0.0
    histogram: Histogram | None = None

    @property
    def clipped(self) -> float | None:
        return 100 * self.outside / self.values if self.values else None

    @property
    def sqnr(self) -> float | None:
        return decibels(self.signal, self.noise)


@dataclass(frozen=True)
class Norm:
    """One BatchNorm layer: how far the statistics of what arrives are from those it keeps, as the divergence of two normal
    distributions (KL, nats), averaged over channels: of Gaussian noise and of synthetic images in the teacher, and of synthetic
    images in the student. None if there is none."""

    path: str
    noise: float | None
    images: float | None
    student: float | None


@dataclass
class Seen:
    """All of it. ``inputs`` (N, C, H, W) are images as they were looked at, ``shown`` these and more; ``teacher`` and ``student`` are
    both networks' probabilities (N, K) where an image has one class, ``answers`` what they say of every image where it has places."""

    weights: list[Weights] = field(default_factory=list)
    acts: list[Activation] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    synthetic: bool = False
    inputs: Tensor | None = None
    shown: Tensor | None = None
    teacher: Tensor | None = None
    student: Tensor | None = None
    answers: Answers = field(default_factory=Answers)


@torch.no_grad()
def look(ctx: Context) -> Seen:
    """Run both networks on synthetic images, Gaussian noise if there are none; nothing of them is changed."""
    teacher, student = ctx.teacher, ctx.student
    assert student is not None, "a run that is published has a student"
    shape = teacher.inputs.shape
    count, size = COUNT if (pixels := math.prod(shape[1:])) <= 64 * 64 else BATCH
    count = size if pixels > 224 * 224 else count
    rng = torch.Generator().manual_seed(ctx.seed)
    noise = torch.randn((count, *shape), generator=rng).to(ctx.device)
    shown = noise if ctx.sampler is None else distinct(ctx.sampler(max(count, SHOWN)).inputs.float())
    inputs = shown[:count]
    seen = Seen(_weights(teacher, student), _activations(student), synthetic=ctx.sampler is not None, inputs=inputs, shown=shown)
    theirs, ours = Statistics(batch_norms(teacher.module)), Statistics(batch_norms(student.module))
    compare = Outputs(teacher, student, [row.path for row in seen.weights])
    outputs: tuple[list[Any], list[Any]] = ([], [])
    for part in torch.split(inputs, size):
        with compare.keeping(), theirs.watching():
            outputs[0].append(teacher.module(part))
        with compare.comparing(), ours.watching(), _watching(student, seen.acts):
            outputs[1].append(student.module(part))
    ratios = compare.ratios(fitted=any(row.moved for row in seen.weights))
    for row in seen.weights:
        row.output_sqnr = ratios.get(row.path, row.output_sqnr)
    before = theirs
    if seen.synthetic:
        before = Statistics(batch_norms(teacher.module))
        with before.watching():
            for part in torch.split(noise[: count // 2], size):
                teacher.module(part)
    after = {path: ours.gaps.get(student.names.get(path, path)) for path in theirs.norms}
    made, noisy = theirs.gaps if seen.synthetic else {}, before.gaps
    seen.norms = [Norm(path, noisy.get(path), made.get(path), after[path]) for path in theirs.norms]
    seen.teacher, seen.student = (_probabilities(teacher, own) for own in outputs)
    if seen.synthetic and isinstance(teacher.task, Drawn):
        more = shown[count:DRAWN]
        for part in torch.split(more, size) if len(more) else ():
            outputs[0].append(teacher.module(part))
            outputs[1].append(student.module(part))
        seen.answers = draw(teacher, *outputs)
    return seen


def _probabilities(teacher: Teacher, outputs: list[Any]) -> Tensor | None:
    """(N, K), where an image has one class."""
    each = (teacher.task.probabilities(output) for output in outputs)
    found = [x for x in each if x is not None and x.dim() == 2]
    return torch.cat(found).cpu() if len(found) == len(outputs) else None


# Weights and what layers give out


def _weights(teacher: Teacher, student: Student) -> list[Weights]:
    rows = []
    for path, point in student.weights.items():
        layer = path.rpartition(".")[0]
        owner = module_at(student.module, layer)
        after = getattr(owner, "weight", None)
        if not isinstance(after, Tensor):
            continue
        lo, hi = _ends(point)
        if lo.dim() == 1 < after.dim():  # by output channel, of a point that does not show its grid
            lo, hi = (_widened(end, after.dim(), int(isinstance(owner, nn.modules.conv._ConvTransposeNd))) for end in (lo, hi))
        row = Weights(layer, type(owner).__name__.removeprefix("Quant"), tuple(after.shape), point.bits, float(lo.min()), float(hi.max()))
        before = getattr(module_at(teacher.module, layer), "weight", None)
        if isinstance(before, Tensor) and before.shape == after.shape:
            _compare(row, before.detach().float(), after.detach().float(), lo, hi)
        rows.append(row)
    return rows


def _compare(row: Weights, before: Tensor, after: Tensor, lo: Tensor, hi: Tensor) -> None:
    """What became of the teacher's weight; channels are laid over each other, each in units of its own range."""
    lo, hi = (end if end.numel() > 1 else end.reshape(()) for end in (lo, hi))
    row.low, row.high = float(before.min()), float(before.max())
    noise, step = (before - after).square(), (hi - lo) / (2**row.bits - 1)
    row.sqnr = decibels(float(before.square().sum()), float(noise.sum()))
    row.moved = float(noise.mean()) > 4 * float((step.square() / 12).expand_as(before).mean())
    row.clipped = None if row.moved else 100 * float(((before < lo - step / 2) | (before > hi + step / 2)).float().mean())
    row.histogram = of_range(before, lo, hi)
    row.histogram.add(before)
    row.histogram.add(after, after=True)


# Activations


def _activations(student: Student) -> list[Activation]:
    rows = []
    for path, point in student.acts.items():
        lo, hi = (float(end.reshape(-1)[0]) for end in _ends(point))
        if isinstance(point, nn.Module) and math.isfinite(lo) and math.isfinite(hi):
            rows.append(Activation(path, point.bits, lo, hi))
    return rows


@contextmanager
def _watching(student: Student, rows: list[Activation]) -> Iterator[None]:
    def watch(path: str, inputs: Any, output: Tensor) -> None:
        row, x = by_path[path], inputs[0].float()
        low, high = torch.aminmax(x)
        row.low, row.high = min(row.low, float(low)), max(row.high, float(high))
        row.signal += _energy(x)
        row.noise += _energy(x - output)
        half = (row.hi - row.lo) / (2 * (2**row.bits - 1))
        row.outside += int((x > row.hi + half).sum()) + (int((x < row.lo - half).sum()) if float(low) < row.lo - half else 0)
        row.values += x.numel()
        if row.histogram is None:
            row.histogram = of_range(x, torch.tensor(row.lo), torch.tensor(row.hi))
        row.histogram.add(x)

    by_path = {row.path: row for row in rows}
    with hooked({path: point for path, point in student.acts.items() if path in by_path and isinstance(point, nn.Module)}, watch):
        yield


# Small tools


def _ends(point: QuantPoint) -> tuple[Tensor, Tensor]:
    """Smallest and largest value that a point can give: of its grid where it shows it, else of its range."""
    if isinstance(point, Gridded):
        grid = point.grid
        lo, hi = ((code - grid.zero_point) * grid.scale for code in (grid.low, grid.high))
    else:
        lo, hi = point.range
    return lo.detach().float(), hi.detach().float()


def _widened(x: Tensor, dims: int, axis: int) -> Tensor:
    """So that it broadcasts along ``axis`` of a tensor of ``dims`` dimensions."""
    return x.reshape([-1 if d == axis else 1 for d in range(dims)])


def _energy(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x.detach().float()).double().square())
