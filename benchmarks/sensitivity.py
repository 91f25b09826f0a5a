"""Time of the sensitivities of all layers, beside that of as many forward passes of the teacher.

    python benchmarks/sensitivity.py [--teacher zoo:resnet20-cifar10] [--images 128] [--write]

Both are measured in turn in one process, a forward of the pool after every few layers, so their ratio holds on a noisy machine:
it is the time of all layers at all widths over (layers x widths x mean forward). The forward is the teacher's own, in
channels_last and float32, in parts of the size that is fastest for it. ``--write`` records the figures under ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from records import keep, spread
from torch import Tensor, nn
from zsq_pareto import ParetoOptions
from zsq_pareto.sensitivity import Sensitivities

from zsq._component import Role
from zsq._manager import Manager
from zsq.options import UniformOptions
from zsq.placement import Uniform
from zsq.testing.world import make_context
from zsq.types import Teacher

#: Sizes of the parts of the pool that the teacher's forward is tried with.
PARTS = (8, 16, 32, 64, 128)
#: Layers measured between two forward passes of the teacher.
EVERY = 4


def load(ref: str, weights: str | None) -> Teacher:
    """The teacher of a reference, in channels_last."""
    source, _, rest = ref.partition(":")
    component = Manager.discover().get(Role.TEACHER, source).component
    options = component.options.parse({"weights": weights} if weights else {})
    teacher: Teacher = component.implementation()(options, make_context(Path(tempfile.gettempdir()))).load(rest)
    teacher.module.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher


@torch.no_grad()
def forward(module: nn.Module, inputs: Tensor, part: int) -> float:
    """Seconds of one pass over all images."""
    start = time.perf_counter()
    for some in torch.split(inputs, part):
        module(some)
    return time.perf_counter() - start


def measure(teacher: Teacher, images: int, bits: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Medians over the repetitions, and the median of the ratio."""
    inputs = torch.randn((images, *teacher.inputs.shape), generator=torch.Generator().manual_seed(0))
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    parts = [part for part in PARTS if part <= images] or [images]
    for part in parts:
        forward(teacher.module, inputs, part)
    part = min(parts, key=lambda size: min(forward(teacher.module, inputs, size) for _ in range(2)))
    student = Uniform(UniformOptions(), make_context(Path())).quantize(teacher, None)
    work = Sensitivities(student, teacher.task, inputs)
    forwards, wholes, ratios = [], [], []
    for _ in range(repeats):
        whole, between = 0.0, []
        start = time.perf_counter()
        for beat in work.measure(bits):
            whole += time.perf_counter() - start
            if beat.step % EVERY == 1:
                between.append(forward(teacher.module, inputs, part))
            start = time.perf_counter()
        whole += time.perf_counter() - start
        one = statistics.mean(between)
        wholes.append(whole)
        forwards.append(one)
        ratios.append(whole / (len(bits) * len(work.layers) * one))
    return {
        "teacher": teacher.ref,
        "layers": len(work.layers),
        "bits": list(bits),
        "images": images,
        "part": part,
        "forward_s": statistics.median(forwards),
        "sensitivities_s": statistics.median(wholes),
        **spread(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="zoo:resnet20-cifar10", help="reference as for zsq run")
    parser.add_argument("--weights", help="weights file of the teacher, for sources that have this option")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--bits", type=int, nargs="+", default=list(ParetoOptions().candidates))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="record under benchmarks/results")
    options = parser.parse_args()
    row = measure(load(options.teacher, options.weights), options.images, tuple(options.bits), options.repeats)
    print(
        f"{row['layers']} layers at {len(row['bits'])} widths on {row['images']} images: {row['sensitivities_s']:.2f} s, "
        f"one forward {row['forward_s']:.3f} s, ratio {row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
    )
    if options.write:
        keep("sensitivity", Path(options.teacher.split(":")[1]).stem, rows=[row], torch=torch.__version__)


if __name__ == "__main__":
    main()
