"""What a run says when memory runs out: which batch size to try."""

from __future__ import annotations

from typing import Any

import torch

from zsq.errors import ZsqError
from zsq.protocols import Batched

#: How libraries word it that memory ran out, where they do not raise an error of its own kind.
_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc", "bad allocation")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether ``error``, or one that it followed while a component was cleaning up, means that memory ran out."""
    if error is None:
        return False
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    return said or is_out_of_memory(error.__context__)


def out_of_memory(phase: str, plan: Any, worker: Any, resume: str = "") -> ZsqError:
    """The message.

    Args:
        phase: In which it happened.
        plan: The run's plan.
        worker: The component whose phase it was, or None.
        resume: The command that goes on with the run, in case something else took the memory.
    """
    kind, _, name = phase.partition(":")
    choice = plan.synth if kind == "prepare" else next((c for c in plan.calibrators if kind == "calibrate" and c.name == name), None)
    key, size = "run.batch_size", plan.run.batch_size
    if choice is not None:
        for option, value in choice.options.meaning("batch").items():
            if own := value or (worker.batch if isinstance(worker, Batched) else None):
                key, size = f"{choice.role}.{name}.{option}" if kind == "calibrate" else f"synth.{option}", own
    hint = f"try --set {key}={size // 2}" if size > 1 else "batches are of one image already: take a machine with more memory"
    more = f", or {resume} if something else took the memory" if resume else ""
    return ZsqError(f"out of memory, with batches of {size} images", f"phase {phase}", hint + more)
