"""Writes events as TensorBoard records. Each is written in its step, so that an error appears there."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from zsq import ZsqError, events
from zsq.errors import library
from zsq.types import Context
from zsq_tensorboard import TensorBoardOptions

#: Seconds from one flush to the next.
_FLUSH = 2.0
#: Of a report, what is drawn as numbers beside the metrics.
_NUMBERS = {"seconds": ("wall_s",), "bytes": ("student", "size_bytes"), "steps": ("steps",)}


class TensorBoard:
    """Adds a file of records to the folder ``ref``.

    Raises:
        ZsqError: Without a folder, or where the library is missing.
    """

    def __init__(self, options: TensorBoardOptions, ctx: Context) -> None:
        if not options.ref:
            raise ZsqError("the log has no folder", "--log tensorboard", "write --log tensorboard:DIR")
        if Path(options.ref).is_file():
            raise ZsqError(f"'{options.ref}' is a file", "--log tensorboard", "give a folder")
        self.folder, self.every = Path(options.ref), options.every
        names = ("tensorboardX", "tensorboardX.summary", "tensorboardX.proto.event_pb2", "tensorboardX.event_file_writer")
        _, self.summaries, self.records, self.files = (library(name, "zsq-tensorboard[writer]", "log 'tensorboard'") for name in names)
        self.writer: Any = None
        self.flushed, self.said = 0.0, 0

    def __call__(self, event: events.Event) -> None:
        """Write what TensorBoard can show of an event.

        Raises:
            OSError: If the file system refuses.
        """
        if isinstance(event, events.RunStarted):
            self._text("recipe", _markdown(event.plan.get("recipe", {})), 0)
        elif isinstance(event, events.Stepped):
            self._stepped(event)
        elif isinstance(event, events.Message):
            self._text("messages", event.text, self.said)
            self.said += 1
        elif isinstance(event, events.Publishing):
            self._picture(event.folder / "images.png")
        elif isinstance(event, events.RunEnded):
            self._ended(event.report)
        if self.writer is not None and (time.monotonic() - self.flushed > _FLUSH or not isinstance(event, events.Stepped)):
            self.writer.flush()
            self.flushed = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        if self.writer is not None:
            writer, self.writer = self.writer, None
            writer.close()

    def _stepped(self, event: events.Stepped) -> None:
        if event.step != 1 and event.step != event.total and event.step % self.every:
            return
        phase = event.phase.replace(":", ".")
        values = {f"{phase}/{name}": value for name, value in event.metrics.items()}
        values |= {f"{phase}/synth/{name}": value for name, value in event.synth.items()}
        for tag, value in values.items():
            self._scalar(tag, value, event.step)

    def _ended(self, report: Mapping[str, Any]) -> None:
        for side in ("student", "teacher"):
            for name, value in report.get(side, {}).get("metrics", {}).items():
                self._scalar(f"{side}/{name}", value, 0)
        for name, path in _NUMBERS.items():
            found: Any = report
            for key in path:
                found = found.get(key, {})
            if isinstance(found, (int, float)):
                self._scalar(f"run/{name}", found, 0)

    def _scalar(self, tag: str, value: Any, step: int) -> None:
        """A number; what is none is left out."""
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            return
        self._write(self.summaries.scalar(_tag(tag), number), step)

    def _text(self, tag: str, text: str, step: int) -> None:
        self._write(self.summaries.text(_tag(tag), text), step)

    def _picture(self, path: Path) -> None:
        """The picture in a file, as it is; nothing if there is none."""
        if not path.is_file():
            return
        with Image.open(path) as picture:
            width, height = picture.size
            colours = len(picture.getbands())
        kind = self.summaries.Summary
        image = kind.Image(height=height, width=width, colorspace=colours, encoded_image_string=path.read_bytes())
        self._write(kind(value=[kind.Value(tag="images", image=image)]), 0)

    def _write(self, summary: Any, step: int) -> None:
        if self.writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            unique = f".{os.getpid()}.{time.time_ns()}"  # two runs may begin in the same second
            self.writer = self.files.EventsWriter(str(self.folder.absolute() / "events"), unique)
        self.writer.write_event(self.records.Event(wall_time=time.time(), step=step, summary=summary))


def _tag(text: str) -> str:
    """Letters, digits and ``-_./`` only: the rest would be replaced with a warning for each."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_./") else "_" for c in text)


def _markdown(recipe: Mapping[str, Any]) -> str:
    """The recipe as a block of YAML."""
    import yaml

    text: str = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=120)
    return f"```\n{text}```"
