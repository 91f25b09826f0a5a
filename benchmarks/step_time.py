"""Time of one generator step plus one student step, beside the floor of the bare forwards and backwards.

    python benchmarks/step_time.py [--synth qimera] [--batch 200 16] [--write]

Both are measured in turn in one process, so their ratio holds on a noisy machine. The floor is the same networks
(generator, teacher with input gradient only, student) without any quantizer, BatchNorm statistics or bookkeeping, in
channels_last with the same autocast. ``--write`` records the figures under ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from zsq_gdfq.generator import Generator, Labels
from zsq_zoo.resnet import resnet20

from zsq import events
from zsq.compose import compose
from zsq.manager import Manager
from zsq.recipe import Recipe
from zsq.run.engine import run
from zsq.run.report import hardware


class Floor:
    """One bare step: generator and student are trained, the teacher only passes the gradient to its input."""

    def __init__(self, batch: int, precision: str) -> None:
        self.batch, self.bf16 = batch, precision == "bf16"
        last = torch.channels_last
        self.generator = Generator((3, 32, 32), 100, 10).to(memory_format=last)
        self.teacher = resnet20().eval().requires_grad_(False).to(memory_format=last)
        self.student = copy.deepcopy(self.teacher).requires_grad_(True)
        self.steps = (
            torch.optim.Adam(self.generator.parameters(), 1e-3, fused=True),
            torch.optim.SGD(self.student.parameters(), 1e-4, momentum=0.9, nesterov=True, fused=True),
        )

    def __call__(self) -> None:
        labels = torch.randint(0, 10, (self.batch,))
        images = self.forward(self.generator, torch.randn(self.batch, 100), Labels.single(labels))
        logits = self.forward(self.teacher, images)
        self.step(0, F.cross_entropy(logits.float(), labels))
        answer = self.forward(self.student, images.detach())
        self.step(1, F.kl_div(answer.float().log_softmax(1), logits.detach().float().softmax(1), reduction="batchmean"))

    def forward(self, network: torch.nn.Module, *inputs: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            output: Tensor = network(*inputs)
        return output

    def step(self, player: int, loss: Tensor) -> None:
        self.steps[player].zero_grad(set_to_none=True)
        loss.backward()
        self.steps[player].step()


def measure(synth: str, batch: int, precision: str, steps: int, skip: int = 3) -> dict[str, Any]:
    """Seconds per step (medians) of the chain and of the floor, and the median of their ratio pair by pair."""
    floor, chain, bare = Floor(batch, precision), [], []
    last = time.perf_counter()

    def clock(event: events.Event) -> None:
        nonlocal last
        if isinstance(event, events.Stepped) and event.phase.startswith("tune"):
            chain.append(time.perf_counter() - last)
            start = time.perf_counter()
            floor()
            bare.append(time.perf_counter() - start)
        last = time.perf_counter()

    recipe = {
        "teacher": "zoo:resnet20-cifar10",
        "synth": {"name": synth, "warmup": 0},
        "quant": "uniform4",
        "calib": [{"name": "minmax", "batches": 1}],
        "tune": {"name": "finetune", "steps": steps + skip},
        "eval": [{"name": "agreement", "images": 8}],
        "run": {"batch_size": batch, "precision": precision},
    }
    manager = Manager.discover()
    run(compose(Recipe.from_dict(recipe), manager), None, manager=manager, listeners=[clock])
    chain, bare = chain[skip:], bare[skip:]
    ratios = [a / b for a, b in zip(chain, bare, strict=True)]
    return {
        "synth": synth,
        "batch": batch,
        "precision": precision,
        "steps": steps,
        "chain_s": statistics.median(chain),
        "floor_s": statistics.median(bare),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synth", default="qimera")
    parser.add_argument("--batch", type=int, nargs="+", default=[200, 16])
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--steps", type=int, help="default: as many as take about 20 seconds")
    parser.add_argument("--write", action="store_true", help="record under benchmarks/results")
    options = parser.parse_args()
    rows = []
    for batch in options.batch:
        for precision in options.precision:
            row = measure(options.synth, batch, precision, options.steps or (15 if batch > 64 else 80))
            rows.append(row)
            print(
                f"batch {batch:4d} {precision}: {row['chain_s']:.3f} s a step, floor {row['floor_s']:.3f} s, "
                f"ratio {row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
            )
    if options.write:
        record = {"benchmark": "step_time", "rows": rows, "torch": torch.__version__, "hardware": hardware()}
        path = Path(__file__).parent / "results" / f"step_time-{options.synth}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
