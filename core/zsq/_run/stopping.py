"""Ends a run early and cleanly: Ctrl-C between two steps, a time budget that shortens learning-rate schedules, and NaN or Inf."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from zsq.errors import ZsqError
from zsq.types import Beat, Student

#: Share of the budget that is kept for evaluation and saving.
_RESERVE = 0.1
#: Share of the remaining time that a phase may use; tuning gets what calibration leaves.
_SHARES = {"prepare": 0.3, "calibrate": 0.4, "tune": 1.0}
#: Share of a phase's time after which its duration is estimated, and the tolerance before its schedule is rescaled.
_ESTIMATE_AT, _TOLERANCE = 0.1, 1.05
#: Metrics on an accelerator are read every so many steps, because a reading waits for the device.
_EVERY = 32
#: Seconds between two copies of the student: at least the first, and at least so many times the duration of a copy (1 % of the time).
_SECONDS, _TIMES = 5.0, 100.0


class Interrupted(ZsqError):
    """The user stopped the run; the hint says how to resume it. Exit code 130, as for every interrupted program."""

    code = 130


class Stop:
    """``request()`` asks a run to end after the current step.

    It is called from a handler of SIGINT. A second request, or one outside of a step loop (loading, evaluating, writing), raises
    ``KeyboardInterrupt`` at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._stepping = False

    def request(self) -> None:
        """Ask for the stop.

        Raises:
            KeyboardInterrupt: On the second request, or outside of a step loop.
        """
        if self.requested or not self._stepping:
            raise KeyboardInterrupt
        self.requested = True

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Inside, the run checks ``requested`` after every step."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False


@contextmanager
def stop_on_sigint() -> Iterator[Stop]:
    """Inside, the first Ctrl-C ends the run after the current step, and the second ends it at once."""
    stop = Stop()

    def handle(_number: int, _frame: object) -> None:
        stop.request()
        os.write(2, b"\nzsq: finishing this step; press Ctrl-C again to stop now\n")

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, handle) if main else None
    try:
        yield stop
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


class Budget:
    """The time that a run may take. ``budget(step, steps)`` is the position in a schedule of ``steps`` at ``step``.

    The position is ``step`` itself, so that the same recipe gives the same bits. Only if the estimate says that the budget will end the
    phase early, the rest of the schedule is rescaled to the remaining time, so that a decaying learning rate still reaches its end.

    Args:
        seconds: The budget; None sets no limit.
        clock: Seconds since the run began.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float]) -> None:
        self.seconds, self.clock = seconds, clock
        self.begin()

    def begin(self, phase: str = "") -> None:
        """Begin a phase; without a name it has no limit."""
        self.start, self.limit = self.clock(), None
        self.estimated = False
        self.rescaled: tuple[float, float] | None = None
        if self.seconds is not None and phase:
            left = max(0.0, self.seconds * (1 - _RESERVE) - self.start)
            self.limit = self.start + left * _SHARES[phase.partition(":")[0]]

    @property
    def over(self) -> bool:
        """Whether the phase must end now."""
        return self.limit is not None and self.clock() >= self.limit

    def __call__(self, step: int, steps: int) -> float:
        if self.limit is None:
            return step
        now, allowed = self.clock(), self.limit - self.start
        if not self.estimated and step > 0 and now - self.start >= _ESTIMATE_AT * allowed:
            self.estimated = True
            if (now - self.start) / step * steps > _TOLERANCE * allowed:
                self.rescaled = (step / steps, now)
        if self.rescaled is None:
            return step
        share, since = self.rescaled
        passed = min(1.0, (now - since) / max(self.limit - since, 1e-9))
        return max(float(step), (share + (1 - share) * passed) * steps)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"start": self.start, "limit": self.limit, "estimated": self.estimated, "rescaled": self.rescaled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.start, self.limit, self.estimated, self.rescaled = (state[name] for name in ("start", "limit", "estimated", "rescaled"))


# -- NaN and Inf -------------------------------------------------------------------------------------------------------


class NotFinite(ZsqError):
    """A metric, a parameter or a range is NaN or Inf; ``step`` of ``phase`` is the first that shows it."""

    def __init__(self, what: str, phase: str, step: int) -> None:
        super().__init__(f"{what} at step {step} of {phase}", phase)
        self.phase, self.step = phase, step


class LastGood:
    """A copy of the student (parameters and buffers, ranges among them) from the last time that all of it was finite.

    A value that was never finite may stay so: a range that no component has set yet, the mask of an attention layer. Parameters must
    always be finite.

    Args:
        student: As the quantizer returned it.
        phase: The phase that made it.

    Raises:
        NotFinite: If one of its parameters is not finite.
    """

    def __init__(self, student: Student, phase: str = "quantize") -> None:
        self.student = student
        self._finite_once = {f"the student's '{name}'" for name, _ in student.module.named_parameters()}
        self.keep(phase, 0)

    def keep(self, phase: str, step: int) -> None:
        """Copy the student.

        Raises:
            NotFinite: If a value that was finite is not finite any more; the copy before is then kept.
        """
        began = time.monotonic()
        state = {name: value.detach().clone() for name, value in self.student.module.state_dict().items() if isinstance(value, Tensor)}
        points = {id(point) for point in self.student.points.values()}
        inside = tuple(f"{path}." for path, module in self.student.module.named_modules() if id(module) in points)
        values: dict[str, tuple[Tensor, ...]] = {
            f"the student's '{name}'": (value,) for name, value in state.items() if not name.startswith(inside)
        }
        values |= {f"the range of '{path}'": point.range for path, point in self.student.points.items()}
        finite = _finite(torch.stack([torch.isfinite(part).all() for part in parts]) for parts in values.values())
        for (name, parts), good in zip(values.items(), finite, strict=True):
            if not good and name in self._finite_once:
                raise NotFinite(f"{name} became {_word(*parts)}", phase, step)
        self._finite_once |= {name for name, good in zip(values, finite, strict=True) if good}
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
            NotFinite: With the name of an activation without one.
        """
        words = {path: _word(*point.range) for path, point in self.student.acts.items()}
        if (left := [path for path, word in words.items() if word]) and len(left) < len(words):
            raise NotFinite(f"the range of '{left[0]}' became {words[left[0]]}", phase, step)

    def restore(self) -> Student:
        """The student with the values of the copy."""
        self.student.module.load_state_dict(self.state, strict=False)  # a learned range may be new or gone
        return self.student


class Watch:
    """Checks the metrics of one phase, and copies the student while they are finite.

    Metrics on the CPU are read at once. Those on an accelerator are read together, every 32 steps, so that no step waits for the device;
    the error still names the first step that was not finite.

    Args:
        phase: The name of the phase.
        good: The copy to update; None while there is no student.
    """

    def __init__(self, phase: str, good: LastGood | None = None) -> None:
        self.phase, self.good = phase, good
        self._waiting: list[tuple[int, str, Any]] = []

    def __call__(self, beat: Beat, more: Mapping[str, Any]) -> None:
        """Check a step, and ``more`` metrics of the same step.

        Raises:
            NotFinite: With the name of the metric and the step.
        """
        metrics = {name: value for name, value in {**more, **beat.metrics}.items() if isinstance(value, (int, float, Tensor))}
        self._waiting += [(beat.step, name, value.detach() if isinstance(value, Tensor) else value) for name, value in metrics.items()]
        copy = self.good is not None and self.good.due
        if copy or (self._waiting and beat.step - self._waiting[0][0] >= _EVERY) or not any(map(_on_device, metrics.values())):
            self._read()
        if copy and self.good is not None:
            self.good.keep(self.phase, beat.step)

    def finish(self, step: int, calibrated: bool = False) -> None:
        """Check the rest, and the student, after the last ``step`` of the phase; ``calibrated`` after the last calibrator.

        Raises:
            NotFinite: As above.
        """
        self._read()
        if self.good is not None:
            if calibrated:
                self.good.check_calibrated(self.phase, step)
            self.good.keep(self.phase, step)

    def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        remote = [value.float().reshape(()) for _, _, value in waiting if _on_device(value)]
        fetched = iter(torch.stack(remote).tolist() if remote else ())
        bad: dict[int, dict[str, float]] = {}
        for step, name, value in waiting:
            if not math.isfinite(number := next(fetched) if _on_device(value) else float(value)):
                bad.setdefault(step, {})[name] = number
        if not bad:
            return
        step = min(bad)
        name = next((name for name in bad[step] if name != "loss"), "loss")  # the term, rather than the sum that it spoils
        what = "the loss" if name == "loss" else f"the loss term '{name}'"
        raise NotFinite(f"{what} became {'nan' if math.isnan(bad[step][name]) else 'infinite'}", self.phase, step)


def _on_device(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type != "cpu"


def _finite(flags: Iterable[Tensor]) -> list[bool]:
    """Whether all of each tensor is True, with one transfer from the device for all of them."""
    found = [flag.all() for flag in flags]
    return torch.stack(found).tolist() if found else []


def _word(*tensors: Tensor) -> str:
    """``nan``, ``infinite``, or empty if all is finite."""
    values = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return "nan" if bool(values.isnan().any()) else "infinite" if bool(values.isinf().any()) else ""
