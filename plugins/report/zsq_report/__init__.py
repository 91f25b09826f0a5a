"""``report.html`` in every run folder: one page, one file, nothing from outside.

Light: it writes down curves while a run goes on; everything heavy is imported once the run's files are written.
"""

from __future__ import annotations

from zsq import hookimpl
from zsq.events import Event, Publishing
from zsq_report.curves import Curves

_CURVES = Curves()


@hookimpl
def zsq_event(event: Event) -> None:
    """Follow a run; write its page when it is about to be put in its place."""
    _CURVES.hear(event)
    if isinstance(event, Publishing):
        from zsq_report.write import write

        write(event, _CURVES.phases)
