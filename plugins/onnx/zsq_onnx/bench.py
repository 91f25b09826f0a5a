"""Latency and throughput of teacher and student in one runtime, side by side."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from zsq.graph import lift
from zsq.types import Teacher
from zsq_onnx.model import build
from zsq_onnx.runtime import Runtime, Session, instruction_set

#: Seconds of warming up and of measuring, per network and batch size.
_WARM, _MEASURED = 0.3, 1.0
#: Minimum number of timed runs; a median of fewer is not reliable.
_RUNS = 7


def bench(teacher: Teacher, folder: Path, runtime: Runtime, threads: int = 1, batch: int = 32) -> dict[str, Any]:
    """Time both networks. They run in turns, so that other load on the machine slows both.

    Args:
        teacher: Converted in memory, in float32.
        folder: Holds the student's exported files.
        runtime: Runs both.
        threads: Of the runtime.
        batch: Images at once, for throughput.

    Returns:
        ``latency_ms`` (batch 1, median), ``images_per_s`` and ``size_bytes`` for ``teacher`` and ``student``; ``speedup`` (of latency),
        or None if the student calculates in float: ``floating`` names the layers and ``islands`` other operations; ``threads``,
        ``batch``, ``isa``, ``runtime``.
    """
    student = runtime.read(folder)
    example = torch.zeros((2, *teacher.inputs.shape))
    model, _ = build(lift(teacher.module.cpu(), example).module, teacher.inputs)
    models = {"teacher": runtime.convert(model), "student": student}
    sessions = {name: runtime.session(content, threads) for name, content in models.items()}
    single = _medians(sessions, 1, teacher.inputs.shape)
    many = _medians(sessions, batch, teacher.inputs.shape)
    plan = runtime.optimized(student)
    result: dict[str, Any] = {
        name: {"latency_ms": 1e3 * single[name], "images_per_s": batch / many[name], "size_bytes": runtime.size(models[name])}
        for name in models
    }
    speedup = None if plan.floating or plan.islands else single["teacher"] / single["student"]
    facts = {"threads": threads, "batch": batch, "isa": instruction_set(), "runtime": runtime.title}
    return {**result, "speedup": speedup, "integer": plan.integer, "floating": plan.floating, "islands": plan.islands, **facts}


def _medians(sessions: dict[str, Session], batch: int, shape: tuple[int, ...]) -> dict[str, float]:
    """Median seconds of a run of each session, in turns."""
    images = np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    start, warm = time.perf_counter(), True
    while warm or len(next(iter(times.values()))) < _RUNS or time.perf_counter() - start < _MEASURED * len(sessions):
        for name, session in sessions.items():
            before = time.perf_counter()
            session(images)
            times[name].append(time.perf_counter() - before)
        if warm and time.perf_counter() - start > _WARM * len(sessions):
            warm, start = False, time.perf_counter()
            times = {name: [] for name in sessions}
    return {name: median(values) for name, values in times.items()}
