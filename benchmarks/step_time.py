"""Time of one iteration of a chain whose generator learns beside the student, and of one step of a tuner.

    python benchmarks/step_time.py [--synth qimera gdfq] [--batch 200 16] [--write]
    python benchmarks/step_time.py --tune ait [--batch 200 16] [--write]

A generator's chain is measured beside its floor: the same networks' bare forwards and backwards that the method needs by
definition, without any quantizer, BatchNorm statistics or bookkeeping, in channels_last with the same autocast. In a generator
step they are the generator, the teacher with input gradient only and, where the method asks the student there, the student
likewise; in a student step the student, and the generator and the teacher forward where the generator's batch is not handed on.
Where there are several steps of one for one of the other, both sides are means over a whole cycle.

A tuner other than ``finetune`` is measured beside that one: student steps on the same images with the teacher's answer at hand,
no generator; ``finetune`` with plain SGD on the weights, so that what is compared is the tuner's own work.

Both sides are measured in turn in one process, so their ratio holds on a noisy machine. ``--write`` records the figures under
``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from records import keep, spread
from torch import Tensor, nn

from zsq import events
from zsq._component import STUDENT_NEEDS, Component, Role
from zsq._compose import compose
from zsq._manager import Manager
from zsq._plan import Plan
from zsq._recipe import Recipe
from zsq._run.engine import run
from zsq._run.stream import Stream
from zsq.errors import ZsqError
from zsq.training import Objective, Probe, Term
from zsq.types import Batch, Beat, Context, Precision, Student

#: Steps left out at the start.
SKIP = 3
#: What is measured of a method that has several ways, beside its defaults; tuners as in ``PLAIN``.
SETTINGS: dict[str, dict[str, Any]] = {"lrq": {"train_data": "generator"}, "ait": {"range_lr": 0}}
#: The step that other tuners are measured beside.
PLAIN = {"name": "finetune", "optimizer": "sgd", "range_lr": 0}


class Floor:
    """One bare cycle of a synthesizer: its own generator, the teacher, and a student that is a copy of the teacher."""

    def __init__(self, synth: Any, through_student: bool, batch: int, precision: str) -> None:
        self.draw, self.cadence, self.through_student = synth.draw, synth.cadence, through_student
        self.batch, self.bf16 = batch, precision == "bf16"
        self.generator = copy.deepcopy(synth.generator)
        self.teacher = copy.deepcopy(synth.ctx.teacher.module)
        self.student = copy.deepcopy(self.teacher).requires_grad_(True)
        self.learning = [p for p in self.generator.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(self.learning, 1e-3, fused=True)
        self.sgd = torch.optim.SGD(self.student.parameters(), 1e-4, momentum=0.9, nesterov=True, fused=True)

    def __call__(self) -> None:
        for _ in range(self.cadence.synth):
            images, logits = self.generator_step()
        for step in range(self.cadence.student):
            if step > 0 or not self.cadence.reuse:
                with torch.no_grad():
                    images = self.images()
                    logits = self.forward(self.teacher, images)
            self.student_step(images.detach(), logits.detach())

    def generator_step(self) -> tuple[Tensor, Tensor]:
        images = self.images()
        logits = self.forward(self.teacher, images)
        loss = logits.square().mean()
        if self.through_student:
            loss = loss + self.forward(self.student, images).square().mean()
        loss.backward(inputs=self.learning)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return images, logits

    def student_step(self, images: Tensor, logits: Tensor) -> None:
        answer = self.forward(self.student, images)
        self.sgd.zero_grad(set_to_none=True)
        F.cross_entropy(answer, logits.argmax(1)).backward()
        self.sgd.step()

    def images(self) -> Tensor:
        return self.forward(self.generator, *self.draw(self.batch)[0])

    def forward(self, network: nn.Module, *inputs: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            output: Tensor = network(*inputs)
        return output.float()


def measure(synth: str, batch: int, precision: str, steps: int) -> dict[str, Any]:
    """Seconds per student step (medians) of the chain and of the floor, and the median of their ratio cycle by cycle.

    Raises:
        ZsqError: If the synthesizer is not installed, or has no generator that learns beside the student.
    """
    manager = Manager.discover()
    component = manager.get(Role.SYNTH, synth).component
    implementation = component.implementation()
    if not (hasattr(implementation, "update") and hasattr(implementation, "draw")):
        raise ZsqError(f"synthesizer '{synth}' has no generator that learns beside the student", "--synth", "try distill_time.py")
    cycle = implementation.cadence.student
    settings = {"name": synth, "warmup": 0, **SETTINGS.get(component.name, {})}
    plan = compose(recipe(batch, precision, {"name": "finetune", "steps": (steps + SKIP) * cycle}, synth=settings), manager)
    plan, made = keeping(plan)
    through_student = bool(plan.synth.needs & STUDENT_NEEDS)
    chain: list[float] = []
    bare: list[float] = []
    floor: list[Floor] = []
    last, elapsed, count = time.perf_counter(), 0.0, 0

    def clock(event: events.Event) -> None:
        nonlocal last, elapsed, count
        if isinstance(event, events.Stepped) and event.phase.startswith("tune"):
            elapsed, count = elapsed + time.perf_counter() - last, count + 1
            if count % cycle == 0:
                floor[:] = floor or [Floor(made[0], through_student, batch, precision)]
                chain.append(elapsed / cycle)
                bare.append(seconds(floor[0]) / cycle)
                elapsed = 0.0
        last = time.perf_counter()

    run(plan, None, manager=manager, listeners=[clock])
    row = {"synth": synth, "tune": "finetune", "batch": batch, "precision": precision, "steps": steps * cycle, "cycle": cycle}
    return row | compared(chain, bare)


def measure_tuner(tune: str, batch: int, precision: str, steps: int) -> dict[str, Any]:
    """Seconds per student step (medians) of a tuner and of plain ``finetune``, and the median of their ratio pair by pair.

    Raises:
        ZsqError: If the tuner is not installed.
    """
    manager = Manager.discover()
    manager.get(Role.TUNE, tune)
    entries = {"name": tune, **SETTINGS.get(tune, {})}, PLAIN
    sides = [tuning(compose(recipe(batch, precision, {**entry, "steps": steps + SKIP}), manager)) for entry in entries]
    times = [[seconds(lambda side=side: next(side)) for side in sides] for _ in range(steps + SKIP)]  # type: ignore[misc]
    for side in sides:
        side.close()
    row = {"synth": "same images", "tune": tune, "batch": batch, "precision": precision, "steps": steps}
    return row | compared([own for own, _ in times], [plain for _, plain in times])


def recipe(batch: int, precision: str, tune: dict[str, Any], **sections: Any) -> Recipe:
    """A 4-bit chain with quick ranges; a tuner alone gets noise, and the divergence of the GDFQ line."""
    sections = sections or {"synth": "noise", "loss": [{"name": "kd", "temperature": 20, "reduction": "mean"}]}
    return Recipe.from_dict(
        {
            "teacher": "zoo:resnet20-cifar10",
            "quant": "uniform4",
            "calib": [{"name": "minmax", "batches": 1}],
            "tune": tune,
            "eval": [{"name": "agreement", "images": 8}],
            "run": {"batch_size": batch, "precision": precision},
            **sections,
        }
    )


def keeping(plan: Plan) -> tuple[Plan, list[Any]]:
    """The plan, and a list that will hold its synthesizer as soon as the engine has built it."""
    made: list[Any] = []

    class Keeping(Component):
        def implementation(self) -> Any:
            class Kept(super().implementation()):  # type: ignore[misc]
                def __init__(self, *inputs: Any) -> None:
                    super().__init__(*inputs)
                    made.append(self)

            return Kept

    own = plan.synth.component
    component = Keeping(**{field.name: getattr(own, field.name) for field in fields(Component)})
    return replace(plan, synth=replace(plan.synth, component=component)), made


def tuning(plan: Plan) -> Iterator[Beat]:
    """The steps of the plan's tuner on one batch, whose teacher's answer is known; everything else is done."""
    device, precision = torch.device("cpu"), Precision(plan.run.precision)

    def build(choice: Any, **known: Any) -> Any:
        ctx = Context(torch.Generator().manual_seed(0), device, precision, None, print, batch_size=plan.run.batch_size, **known)
        return choice.component.implementation()(choice.options, ctx)

    teacher = build(plan.teacher).load(plan.ref)
    teacher.module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    student: Student = build(plan.quant, teacher=teacher).quantize(teacher, None)
    probe = Probe(teacher, precision, student)
    objective = Objective([Term(c.name, build(c, teacher=teacher), c.weight, frozenset(c.needs)) for c in plan.losses])
    known = {"teacher": teacher, "student": student, "probe": probe, "objective": objective}
    stream = Stream(build(plan.synth, **known), probe, student, plan.run.batch_size)
    for choice in plan.calibrators:
        for _ in build(choice, **known).fit(student, stream):
            pass
    batch: Batch = next(stream)[0]
    trace = probe(batch, objective.needs).teacher
    steps: Iterator[Beat] = build(plan.tuner, **known).fit(student, repeat((batch, trace)), objective)
    return steps


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compared(chain: list[float], bare: list[float]) -> dict[str, float]:
    """The figures of a row, without the first steps."""
    chain, bare = chain[SKIP:], bare[SKIP:]
    ratios = [a / b for a, b in zip(chain, bare, strict=True)]
    return {
        "chain_s": statistics.median(chain),
        "floor_s": statistics.median(bare),
        **spread(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synth", nargs="+", default=["qimera"], help="synthesizers with a generator, each beside its floor")
    parser.add_argument("--tune", default="finetune", help="another tuner: then it is measured beside finetune, without any generator")
    parser.add_argument("--batch", type=int, nargs="+", default=[200, 16])
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--steps", type=int, help="cycles to measure; default: as many as take about 20 seconds")
    parser.add_argument("--write", action="store_true", help="record under benchmarks/results")
    options = parser.parse_args()
    alone = options.tune != "finetune"
    for name in [options.tune] if alone else options.synth:
        rows = []
        for batch in options.batch:
            for precision in options.precision:
                row = (measure_tuner if alone else measure)(name, batch, precision, options.steps or (15 if batch > 64 else 80))
                rows.append(row)
                print(
                    f"{name:8s} batch {batch:4d} {precision}: {row['chain_s']:.3f} s a step, {'finetune' if alone else 'floor'} "
                    f"{row['floor_s']:.3f} s, ratio {row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})",
                    flush=True,
                )
        if options.write:
            keep("step_time", name, rows=rows, torch=torch.__version__)


if __name__ == "__main__":
    try:
        main()
    except ZsqError as error:
        sys.exit(str(error))
