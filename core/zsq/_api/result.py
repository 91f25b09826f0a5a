"""The result of ``zsq.quantize``: the student in memory, its metrics, and everything that a saved run can do."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._api.saved import SavedRun
from zsq._api.tables import report_table

if TYPE_CHECKING:
    from torch import nn

    from zsq._manager import Manager
    from zsq._recipe import Recipe
    from zsq.types import Say, Student, Teacher


class Result(SavedRun):
    """A finished run, its student in memory.

    It shows itself as a table in a terminal and in a notebook. Without ``out``, its files are in a temporary folder that is removed with
    this object; :meth:`save` keeps them.

    Args:
        folder: The run folder.
        student: The student, as it was evaluated.
        teacher: The copy of the network that it was made from.
        temporary: The folder to remove with this object.
        manager: The plugins, with the components in memory.
        say: Shows messages.
    """

    def __init__(self, folder: Path, student: Student, teacher: Teacher, temporary: tempfile.TemporaryDirectory[str] | None = None,
                 manager: Manager | None = None, say: Say | None = None) -> None:  # fmt: skip
        super().__init__(folder, manager, say)
        self.quantized, self.teacher, self._temporary = student, teacher, temporary

    @property
    def student(self) -> nn.Module:
        """The quantized network, with the inputs and outputs of the teacher. Its weights are frozen at their codes."""
        return self.quantized.module

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics of the student (accuracies in percent)."""
        found: Mapping[str, float] = self.report["student"]["metrics"]
        return found

    @property
    def teacher_metrics(self) -> Mapping[str, float]:
        """The metrics of the teacher, from the evaluators that measure it."""
        found: Mapping[str, float] = self.report["teacher"]["metrics"]
        return found

    @property
    def recipe(self) -> Recipe:
        """The recipe with every setting; ``zsq.quantize(network, recipe=...)`` repeats the run."""
        from zsq._recipe import Recipe

        return Recipe.from_dict(self.report["recipe"])

    def bench(self, to: str = "onnx", threads: int = 1, batch: int = 32, teacher: Teacher | None = None) -> dict[str, Any]:
        """Time teacher and student in the same runtime; see :meth:`SavedRun.bench`."""
        return super().bench(to, threads, batch, teacher or self.teacher)

    @property
    def _kept(self) -> Path | None:
        return None if self._temporary is not None else self.folder

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._rows())

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        student = self.report["student"]
        return f"<zsq.Result W{student['weight_bits']}A{student['act_bits'] or 32} of {self.report['teacher']['ref']}: {figures}>"

    def _repr_html_(self) -> str:
        """The table for a notebook; everything in it is escaped."""
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(name)}</td><td style='text-align:left'><b>{html.escape(value)}</b></td></tr>"
            for name, value in self._rows()
        )
        return f"<table><tbody>{rows}</tbody></table>"

    def _rows(self) -> Iterator[tuple[str, str]]:
        columns = [[str(cell) for cell in column.cells] for column in report_table(self.report, self._kept).columns]
        yield from zip(*columns, strict=True)
