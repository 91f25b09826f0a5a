"""Time of one iteration of image distillation, beside the floor of the bare teacher, forward and backward to its input.

    python benchmarks/distill_time.py [--teacher resnet20 efficientnet-lite0] [--set statistics=image] [--write]

Both are measured in turn in one process, so their ratio holds on a noisy machine. The iteration is that of the engine's own
run, option defaults of the synthesizer unless `--set` says otherwise; the floor is the same batch through the same network
with the same autocast, cross-entropy and the gradient of the input, without statistics, optimizer or bookkeeping.
``--write`` records the figures under ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from records import keep, spread

from zsq import events
from zsq._compose import compose
from zsq._manager import Manager
from zsq._plan import Plan
from zsq._recipe import Recipe
from zsq._run.engine import run
from zsq.testing.world import make_context

HERE = Path(__file__).parent
TEACHERS: dict[str, dict[str, Any]] = {
    "resnet20": {"ref": "zoo:resnet20-cifar10"},
    "efficientnet-lite0": {"ref": f"py:{HERE / 'efficientnet_lite0.py'}:teacher"},
}


class Floor:
    """One bare forward and backward of a teacher on a batch of noise."""

    def __init__(self, plan: Plan, batch: int, precision: str) -> None:
        teacher = plan.teacher.component.implementation()(plan.teacher.options, make_context(Path())).load(plan.ref)
        self.module, self.bf16 = teacher.module.eval().requires_grad_(False).to(memory_format=torch.channels_last), precision == "bf16"
        noise = torch.randn(batch, *teacher.inputs.shape).contiguous(memory_format=torch.channels_last)
        self.inputs, self.labels = noise.requires_grad_(), torch.randint(0, teacher.task.classes, (batch,))

    def __call__(self) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            output = self.module(self.inputs)
        F.cross_entropy(output.float(), self.labels).backward(inputs=[self.inputs])
        self.inputs.grad = None


def measure(name: str, synth: str, options: dict[str, str], batch: int, precision: str, steps: int, skip: int = 2) -> dict[str, Any]:
    """Seconds per iteration (medians) of distillation and of the floor, and the median of their ratio pair by pair."""
    chain: list[float] = []
    bare: list[float] = []
    last = time.perf_counter()

    def clock(event: events.Event) -> None:
        nonlocal last
        if isinstance(event, events.Stepped) and event.phase == "prepare":
            chain.append(time.perf_counter() - last)
            start = time.perf_counter()
            floor()
            bare.append(time.perf_counter() - start)
        last = time.perf_counter()

    recipe = {
        "teacher": TEACHERS[name],
        "synth": {"name": synth, **options, "images": batch, "batch": batch, "iterations": steps + skip},
        "quant": "uniform8",
        "calib": [{"name": "minmax", "batches": 1}],
        "tune": "none",
        "eval": [{"name": "agreement", "images": 2}],
        "run": {"batch_size": 2, "precision": precision},
    }
    manager = Manager.discover()
    plan = compose(Recipe.from_dict(recipe), manager)
    floor = Floor(plan, batch, precision)
    floor()
    run(plan, None, manager=manager, listeners=[clock])
    chain, bare = chain[skip:], bare[skip:]
    ratios = [a / b for a, b in zip(chain, bare, strict=True)]
    return {
        "teacher": name,
        "synth": synth,
        "options": options,
        "batch": batch,
        "precision": precision,
        "steps": steps,
        "iteration_s": statistics.median(chain),
        "floor_s": statistics.median(bare),
        **spread(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", nargs="+", default=list(TEACHERS), choices=list(TEACHERS))
    parser.add_argument("--synth", default="zeroq")
    parser.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE", help="of the synthesizer")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--steps", type=int, help="default: as many as take about 20 seconds")
    parser.add_argument("--write", action="store_true", help="record under benchmarks/results")
    arguments = parser.parse_args()
    options = dict(pair.split("=", 1) for pair in arguments.set)
    rows = []
    for name in arguments.teacher:
        for precision in arguments.precision:
            steps = arguments.steps or (100 if name == "resnet20" else 8)
            row = measure(name, arguments.synth, options, arguments.batch, precision, steps)
            rows.append(row)
            print(
                f"{name} batch {row['batch']} {precision}: {row['iteration_s']:.4f} s an iteration, floor {row['floor_s']:.4f} s, "
                f"ratio {row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})",
                flush=True,
            )
    if arguments.write:
        keep("distill_time", arguments.synth, rows=rows, torch=torch.__version__)


if __name__ == "__main__":
    main()
