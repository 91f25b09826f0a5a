"""The logs of one run: chosen by ``--log``, told of every event, and never in the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zsq._plan import Choice
from zsq.errors import PlanError
from zsq.events import Event
from zsq.types import Context


class Logs:
    """All logs as one listener. One that fails is closed and left out from then on, with one message; the run goes on.

    Args:
        choices: What was asked for.
        ctx: Their context; what goes wrong is said through ``ctx.log``.
        target: The run's folder, which is not there before the run is done.

    Raises:
        ZsqError: If a log cannot be built, or would lie in ``target``.
    """

    def __init__(self, choices: Sequence[Choice], ctx: Context, target: Path | None) -> None:
        self.say, self.logs = ctx.log, dict[str, Any]()
        for choice in choices:
            ref = str(choice.settings.get("ref", ""))
            if target is not None and ref and Path(ref).resolve().is_relative_to(target.resolve()):
                what = f"the log would lie in the run's own folder '{target}', which is not there before the run is done"
                raise PlanError(what, f"--log {choice.name}", f"write it beside: --log {choice.name}:{target}.{choice.name}")
            self.logs[f"{choice.name}:{ref}"] = choice.component.implementation()(choice.options, ctx)

    def __call__(self, event: Event) -> None:
        for name in list(self.logs):
            self._guarded(name, lambda log: log(event))

    def close(self) -> None:
        """The run is over."""
        for name in list(self.logs):
            self._guarded(name, lambda log: log.close())
        self.logs.clear()

    def _guarded(self, name: str, use: Callable[[Any], None]) -> None:
        if (log := self.logs.get(name)) is None:  # left out meanwhile
            return
        try:
            use(log)
        except (Exception, SystemExit) as error:
            del self.logs[name]
            reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
            self.say(f"--log {name} failed and is left out from here on: {' '.join(str(reason).split())[:200]}")
            try:
                log.close()
            except (Exception, SystemExit):
                return
