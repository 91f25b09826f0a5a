"""What ends a run whose numbers are no longer numbers: metrics and the student's tensors are watched, and a good copy is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from zsq.errors import ZsqError
from zsq.types import Beat, Student

#: Beats between two readings of metrics that lie on an accelerator; a reading waits for the device.
_EVERY = 32
#: Seconds from one copy of the student to the next: at least the first, and at least so many times what a copy takes (1 %).
_SECONDS, _TIMES = 5.0, 100.0


class NotFinite(ZsqError):
    """A metric, a parameter or a range is nan or infinite; ``step`` of ``phase`` is the first that shows it."""

    def __init__(self, what: str, phase: str, step: int) -> None:
        super().__init__(f"{what} at step {step} of {phase}", phase)
        self.phase, self.step = phase, step


class LastGood:
    """A copy of the student from when all of it was last finite: parameters, buffers, and with them the ranges.

    A range that nobody has set yet may be whatever the quantizer put there, or nan. A buffer that is not finite from the start
    (the mask of an attention) may stay so.

    Args:
        student: As the quantizer made it.
        phase: That made it.

    Raises:
        NotFinite: When one of its parameters is not finite.
    """

    def __init__(self, student: Student, phase: str = "quantize") -> None:
        self.student = student
        buffers = dict(student.module.named_buffers())
        self._exempt = {name for name, good in zip(buffers, _finite(buffers.values()), strict=True) if not good}
        self._blank = {path for path, point in student.points.items() if _word(*point.range) == "infinite"}
        self._set: set[str] = set()
        self.keep(phase, 0)

    def keep(self, phase: str, step: int) -> None:
        """Copy the student.

        Raises:
            NotFinite: When a tensor of it is not finite; the copy before is then kept.
        """
        began = time.monotonic()
        state = {name: value.detach().clone() for name, value in self.student.module.state_dict().items() if isinstance(value, Tensor)}
        self._check(state, phase, step)
        self.state, self.phase, self.step = state, phase, step
        now = time.monotonic()
        self._next = now + max(_SECONDS, _TIMES * (now - began))

    @property
    def due(self) -> bool:
        """Whether it is time for another copy."""
        return time.monotonic() >= self._next

    def check_calibrated(self, phase: str, step: int) -> None:
        """After the last calibrator either every activation has a range, or none has.

        Raises:
            NotFinite: Naming an activation without one.
        """
        words = {path: _word(*point.range) for path, point in self.student.acts.items()}
        if (left := [path for path, word in words.items() if word]) and len(left) < len(words):
            raise NotFinite(f"the range of '{left[0]}' became {words[left[0]]}", phase, step)

    def restore(self) -> Student:
        """The student as it was when it was copied."""
        self.student.module.load_state_dict(self.state, strict=False)  # the parameter of a learned range may have come or gone
        return self.student

    def _check(self, state: Mapping[str, Tensor], phase: str, step: int) -> None:
        points = {id(point) for point in self.student.points.values()}
        inside = tuple(f"{path}." for path, module in self.student.module.named_modules() if id(module) in points)
        names = [name for name in state if name not in self._exempt and not name.startswith(inside)]
        for name, good in zip(names, _finite([state[name] for name in names]), strict=True):
            if not good:
                raise NotFinite(f"the student's '{name}' became {_word(state[name])}", phase, step)
        ranges = {path: point.range for path, point in self.student.points.items()}
        lows, highs = (_finite([pair[end] for pair in ranges.values()]) for end in (0, 1))
        for path, low, high in zip(ranges, lows, highs, strict=True):
            if low and high:
                self._set.add(path)
            elif path in self._set or (path not in self._blank and _word(*ranges[path]) == "infinite"):
                raise NotFinite(f"the range of '{path}' became {_word(*ranges[path])}", phase, step)


class Watch:
    """Looks at the metrics of one phase, and keeps the student while they are finite.

    Metrics on the CPU are read at once. Those on an accelerator are read every 32 beats, all in one go, so that no step waits
    for the device; the step that is named is still the first that was not finite.

    Args:
        phase: Its name.
        good: Kept up to date; None while there is no student.
    """

    def __init__(self, phase: str, good: LastGood | None = None) -> None:
        self.phase, self.good = phase, good
        self._waiting: list[tuple[int, str, Tensor]] = []

    def __call__(self, beat: Beat, more: Mapping[str, Any]) -> None:
        """Look at a beat, and at ``more`` metrics of the same step.

        Raises:
            NotFinite: Naming the term and the step.
        """
        bad: dict[str, float] = {}
        for name, value in {**more, **beat.metrics}.items():
            if isinstance(value, Tensor) and not _on_host(value):
                self._waiting.append((beat.step, name, value.detach()))
            elif isinstance(value, (int, float, Tensor)) and not math.isfinite(number := float(value)):
                bad[name] = number
        if bad:
            self._read()
            raise self._fault(beat.step, bad)
        if self._waiting and beat.step - self._waiting[0][0] >= _EVERY:
            self._read()
        if self.good is not None and self.good.due:
            self._read()
            self.good.keep(self.phase, beat.step)

    def finish(self, step: int, calibrated: bool = False) -> None:
        """Look at what is left, and at the student, when the phase has ended at ``step``; ``calibrated`` after the last calibrator.

        Raises:
            NotFinite: As before.
        """
        self._read()
        if self.good is not None:
            if calibrated:
                self.good.check_calibrated(self.phase, step)
            self.good.keep(self.phase, step)

    def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        values = torch.stack([value.float().reshape(()) for _, _, value in waiting]).tolist()
        found: dict[int, dict[str, float]] = {}
        for (step, name, _), value in zip(waiting, values, strict=True):
            if not math.isfinite(value):
                found.setdefault(step, {})[name] = value
        if found:
            raise self._fault(min(found), found[min(found)])

    def _fault(self, step: int, bad: Mapping[str, float]) -> NotFinite:
        """Of several, the term rather than the sum that it spoils."""
        name = next((name for name in bad if name != "loss"), "loss")
        what = "the loss" if name == "loss" else f"the loss term '{name}'"
        return NotFinite(f"{what} became {'nan' if math.isnan(bad[name]) else 'infinite'}", self.phase, step)


def _on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _finite(tensors: Iterable[Tensor]) -> list[bool]:
    """Whether all of each tensor is finite, with one reading for all of them."""
    found = [torch.isfinite(tensor).all() for tensor in tensors]
    return torch.stack(found).tolist() if found else []


def _word(*tensors: Tensor) -> str:
    """``nan``, ``infinite``, or nothing where all is finite."""
    values = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return "nan" if bool(values.isnan().any()) else "infinite" if bool(values.isinf().any()) else ""
