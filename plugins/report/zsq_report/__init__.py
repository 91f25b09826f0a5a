"""``report.html`` in every run folder: one page, one file, nothing from outside.

Light: it writes down curves while a run goes on; everything heavy is imported once the run's files are written.
"""

from __future__ import annotations

from zsq import hookimpl
from zsq.events import Event, Publishing
from zsq_report.curves import Curves


class Report:
    """Listens to a run, and writes its page before the run folder is published."""

    def __init__(self) -> None:
        self._curves = Curves()

    @hookimpl
    def zsq_event(self, event: Event) -> None:
        """Handle one event."""
        self._curves.hear(event)
        if isinstance(event, Publishing):
            from zsq_report.write import write

            write(event, self._curves.phases)
