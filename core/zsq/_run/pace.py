"""How far a phase is along its schedule when a budget will end it before its last step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: Share of a phase's time after which it is foreseen, once, whether its steps will fit; and how far they may seem too many.
_LOOK, _SLACK = 0.1, 1.05


class Pace:
    """``pace(step, steps)``: where in its schedule of ``steps`` a phase is at ``step``.

    That is ``step`` itself, so that the same recipe gives the same bits. Only where a budget is foreseen to cut the phase off,
    the rest of the schedule is spread over the time that is left, so that a learning rate that falls to zero does so.

    Args:
        clock: Seconds since the run began.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.begin(0.0, None)

    def begin(self, start: float, limit: float | None) -> None:
        """A phase begins at second ``start`` and has to end at second ``limit``."""
        self.start, self.limit = start, limit
        self.looked = False
        self.bound: tuple[float, float] | None = None

    @property
    def over(self) -> bool:
        """Whether the phase has to end now."""
        return self.limit is not None and self.clock() >= self.limit

    def __call__(self, step: int, steps: int) -> float:
        if self.limit is None:
            return step
        now, room = self.clock(), self.limit - self.start
        if not self.looked and step > 0 and now - self.start >= _LOOK * room:
            self.looked = True
            if (now - self.start) / step * steps > _SLACK * room:
                self.bound = (step / steps, now)
        if self.bound is None:
            return step
        share, since = self.bound
        passed = min(1.0, (now - since) / max(self.limit - since, 1e-9))
        return max(float(step), (share + (1 - share) * passed) * steps)

    def state_dict(self) -> dict[str, Any]:
        """To be kept in a checkpoint."""
        return {"start": self.start, "limit": self.limit, "looked": self.looked, "bound": self.bound}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        self.start, self.limit, self.looked, self.bound = (state[name] for name in ("start", "limit", "looked", "bound"))
