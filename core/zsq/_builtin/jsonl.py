"""Log ``jsonl``: one JSON object per event and line, written at once, so that it can be read during the run.

Every line has ``schema`` (1), ``event`` (``run-started``, ``phase-started``, ``stepped``, ``phase-ended``, ``message``, ``publishing``,
``run-ended``), ``time`` (UTC) and ``seconds`` since the run began, then the event's own fields.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path, PurePath
from typing import Any

from zsq._builtin.options import JsonlOptions
from zsq.errors import FileError, OptionError
from zsq.events import Event
from zsq.types import Context

SCHEMA = 1
#: Fields that are not written, by event; ``run-ended`` has the report.
_LEFT_OUT = {"publishing": {"report", "ctx", "details"}}
#: The last complete line is searched in so many bytes at the end of a file.
_TAIL = 1 << 26


class Jsonl:
    """Appends to the file ``ref``. A resumed run continues its log, and several runs may share one file.

    Raises:
        OptionError: Without a path.
        FileError: If the file exists and is not such a log.
    """

    def __init__(self, options: JsonlOptions, ctx: Context) -> None:
        if not options.ref:
            raise OptionError("the log has no path", "--log jsonl", "write --log jsonl:PATH")
        self.path = Path(options.ref)
        self.file: FileIO | None = None
        if self.path.is_dir() or (self.path.is_file() and not _is_log(self.path)):
            raise FileError(f"'{self.path}' exists and is not a log of zsq", "--log jsonl", "choose another path")

    def __call__(self, event: Event) -> None:
        """Write one line.

        Raises:
            OSError: If the file system refuses; earlier lines stay.
        """
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = FileIO(self.path, "ab")
            _cut(self.path)
        line = json.dumps(row(event), allow_nan=False).encode() + b"\n"
        while line:
            line = line[self.file.write(line) or 0 :]

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def row(event: Event) -> dict[str, Any]:
    """An event as plain values for JSON."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(event).__name__).lower()
    left_out = {"seconds"} | _LEFT_OUT.get(name, set())
    fields = {field.name: plain(getattr(event, field.name)) for field in dataclasses.fields(event) if field.name not in left_out}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"schema": SCHEMA, "event": name, "time": now, "seconds": round(event.seconds, 6), **fields}


def plain(value: Any) -> Any:
    """``value`` for JSON: a tensor of one element is its number, a larger one its shape, an object its kind.

    A number that is not finite is the text ``NaN``, ``Infinity`` or ``-Infinity``, which most languages read back as that number.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "shape") and hasattr(value, "tolist"):
        return plain(value.item()) if math.prod(value.shape) == 1 else {"shape": list(value.shape)}
    return str(value) if isinstance(value, PurePath) else type(value).__name__


def _is_log(path: Path) -> bool:
    """Whether a file is empty or begins with a line of such a log. An unreadable file fails later, on writing."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return True
    return not head or head.startswith(f'{{"schema": {SCHEMA}, "event": '.encode())


def _cut(path: Path) -> None:
    """Remove a half-written last line of a killed run."""
    if not path.is_file() or not (size := path.stat().st_size):
        return
    with path.open("rb+") as file:
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        if not tail.endswith(b"\n"):
            file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
