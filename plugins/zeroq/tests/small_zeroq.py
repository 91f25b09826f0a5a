"""Small runs of ZeroQ, and noise to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zsq_zeroq import ZeroqOptions
from zsq_zeroq.synth import Zeroq

from zsq.testing.world import make_context, make_teacher
from zsq.types import Context, Teacher

SMALL = {"images": 12, "batch": 4, "iterations": 3}


def context(seed: int = 0, cache: Path | None = None, teacher: Teacher | None = None, log: Any = None) -> Context:
    return make_context(Path(), seed=seed, teacher=teacher or make_teacher()).with_(cache=cache, log=log or (lambda message: None))


def synth(ctx: Context | None = None, **options: Any) -> Zeroq:
    return Zeroq(ZeroqOptions.parse({**SMALL, **options}), ctx or context())


def prepared(ctx: Context | None = None, **options: Any) -> Zeroq:
    made = synth(ctx, **options)
    list(made.prepare(made.ctx.probe))
    return made
