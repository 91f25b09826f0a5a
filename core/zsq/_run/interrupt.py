"""Stopping a run from outside: the wish to stop, heard between two beats, and what a run that was stopped says."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from zsq.errors import ZsqError


class Interrupted(ZsqError):
    """The user stopped the run; the hint says how it goes on. Exit code 130, as of any program that is interrupted."""

    code = 130


class Stop:
    """``request()`` asks a run to end after its present step.

    A second request, or one where no step will end soon (loading, evaluating, writing), raises ``KeyboardInterrupt`` at once:
    meant to be called from a handler of SIGINT.
    """

    def __init__(self) -> None:
        self.requested = False
        self._stepping = False

    def request(self) -> None:
        """Ask.

        Raises:
            KeyboardInterrupt: As above.
        """
        if self.requested or not self._stepping:
            raise KeyboardInterrupt
        self.requested = True

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Inside, ``requested`` is looked at after every step."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False


@contextmanager
def stopping() -> Iterator[Stop]:
    """Inside, the first Ctrl-C asks the run to end after its present step, and the second ends it at once."""
    stop = Stop()

    def ask(_number: int, _frame: object) -> None:
        stop.request()
        os.write(2, b"\nzsq: finishing this step; Ctrl-C once more to leave now\n")

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, ask) if main else None
    try:
        yield stop
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
