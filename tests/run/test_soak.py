"""A long run's memory is flat. ``ZSQ_SOAK=20000`` takes as many steps, for a look at a day's worth; 2,000 are enough to see a leak."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from zsq import events
from zsq.testing._chains import tiny_run

STEPS = int(os.environ.get("ZSQ_SOAK", "2000"))
#: Memory settles in the first fifth; from there on a leak of one small tensor a step is 2 %.
SETTLED, GROWTH = 0.2, 1.02
#: MiB of a page of memory.
PAGE = resource.getpagesize() / 2**20


@pytest.mark.slow
@pytest.mark.timeout(300 + STEPS // 10)
@pytest.mark.fault("a long run: 2,000 steps with checkpoints; 20,000 with `ZSQ_SOAK=20000`", "resident memory grows by less than 2 %")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_is_flat(tmp_path: Path) -> None:
    sizes: dict[int, int] = {}

    def watch(event: events.Event) -> None:
        if isinstance(event, events.Stepped) and event.phase.startswith("tune") and event.step % (STEPS // 20) == 0:
            sizes[event.step] = int(Path("/proc/self/statm").read_text().split()[1])

    tune = {"name": "finetune", "steps": STEPS}
    chain = {"synth": "noise", "tune": tune, "run": {"batch_size": 2, "checkpoint": 0.5}}
    report = tiny_run(chain, folder=tmp_path / "run", listeners=[watch]).report
    assert report["steps"] == STEPS
    settled = sizes[round(STEPS * SETTLED)]
    print(f"{STEPS} steps: {settled * PAGE:.1f} MiB -> {sizes[STEPS] * PAGE:.1f} MiB, {report['wall_s']:.0f} s")
    assert max(sizes[step] for step in sizes if step >= STEPS * SETTLED) < GROWTH * settled
