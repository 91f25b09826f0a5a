"""The methods and attributes of every part of a chain, as protocols. There is no base class: an object with these members is enough.

First one protocol per role, then the optional parts, which the core looks for with ``isinstance``. Components are built as
``Class(options, ctx)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from zsq.types import Objective, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from zsq.events import Event
    from zsq.types import Batch, Beat, Cadence, Context, Probe, Student, Teacher, Trace, Update, View

__all__ = [
    "Alternating",
    "Batched",
    "Box",
    "Calibrator",
    "Checked",
    "Classed",
    "Detailed",
    "Drawing",
    "Drawn",
    "Evaluator",
    "Exporter",
    "Log",
    "Loss",
    "Measuring",
    "Objective",
    "Paced",
    "PartlyFloat",
    "Pooled",
    "Published",
    "Quantizer",
    "Reader",
    "Repository",
    "Resumable",
    "SaysNeeds",
    "SaysProvides",
    "Staged",
    "Store",
    "Stream",
    "Synthesizer",
    "Task",
    "TeacherSource",
    "Timing",
    "Tuner",
    "Verifying",
]


# -- roles -------------------------------------------------------------------------------------------------------------


@runtime_checkable
class TeacherSource(Protocol):
    """Loads the teacher that a reference ``NAME:ref`` names."""

    def load(self, ref: str) -> Teacher: ...


@runtime_checkable
class Synthesizer(Protocol):
    """Makes batches of images. Optional parts: :class:`Staged`, :class:`Alternating`, :class:`Pooled`."""

    def sample(self, n: int) -> Batch: ...


@runtime_checkable
class Quantizer(Protocol):
    """Makes a new student; never changes the teacher. ``pool`` is None unless it needs ``pool``. Optional: :class:`Measuring`."""

    def quantize(self, teacher: Teacher, pool: Batch | None) -> Student: ...


@runtime_checkable
class Calibrator(Protocol):
    """Sets ranges, BatchNorm statistics or biases, or equalizes weights, without gradients. Works on the points of any quantizer."""

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]: ...


@runtime_checkable
class Loss(Protocol):
    """A pure function of a view; returns a scalar tensor."""

    def __call__(self, view: View) -> Tensor: ...


@runtime_checkable
class Stream(Protocol):
    """An endless iterator of batches, each with the teacher's trace if there is one. Pulling a batch moves a generator.

    ``metrics``: of the last generator step, empty if there was none. ``batch_size``: images per batch. Calibrators and tuners must also
    accept plain iterators.
    """

    metrics: dict[str, Any]
    batch_size: int

    def __iter__(self) -> Iterator[tuple[Batch, Trace | None]]: ...
    def __next__(self) -> tuple[Batch, Trace | None]: ...


@runtime_checkable
class Tuner(Protocol):
    """Changes the student by gradients on the objective."""

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]], objective: Objective) -> Iterator[Beat]: ...


@runtime_checkable
class Evaluator(Protocol):
    """Measures a network: returns numbers by name. Its option ``ref`` is the text after ``NAME:`` on ``--eval``.

    An evaluator that compares the student with its teacher needs ``teacher.output`` in its descriptor, and does not run on the teacher.
    Optional parts: :class:`Checked`, :class:`Detailed`.
    """

    def evaluate(self, module: nn.Module, ctx: Context) -> Mapping[str, float]: ...


@runtime_checkable
class Exporter(Protocol):
    """Writes files of a finished student into ``folder``; returns their paths. Optional parts: :class:`Verifying`, :class:`Timing`."""

    def export(self, student: Student, manifest: Mapping[str, Any], folder: Path) -> list[Path]: ...


@runtime_checkable
class Log(Protocol):
    """Hears every event of a run. Its option ``ref`` is the text after ``NAME:`` on ``--log``.

    An error while it is built stops the run before it begins. A later error ends the log, not the run.
    """

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None:
        """Called when the run is over, also after an error."""


@runtime_checkable
class Reader(Protocol):
    """Makes a teacher from files that a library published in a store. It has the name of the library."""

    def read(self, repository: Repository) -> Teacher: ...


@dataclass(frozen=True)
class Published:
    """The result of a push: the URL, the commit (None after a dry run), the names of the files."""

    url: str
    commit: str | None
    files: tuple[str, ...]


@runtime_checkable
class Store(Protocol):
    """Publishes finished students and fetches them. A student in a store is named ``STORE:REST``."""

    def fetch(self, place: str, revision: str | None = None, *, exported: bool = False) -> Path:
        """Fetch a published student; returns its folder on this machine.

        Args:
            place: The text after ``STORE:``.
            revision: Branch, tag or commit.
            exported: Fetch the exported files as well.
        """

    def ready(self, place: str) -> None:
        """Check before a run that the result can be published.

        Raises:
            ZsqError: If publishing there is impossible.
        """

    def push(self, run: Path, place: str, *, private: bool | None = None, dry_run: Path | None = None, base_model: str | None = None,
             license: str | None = None, dataset: str | None = None, proof: Mapping[str, Any] | None = None) -> Published:  # fmt: skip
        """Publish the run in folder ``run``.

        Args:
            run: The folder of a finished run.
            place: The text after ``STORE:``.
            private: Who may see it; None leaves that to the store.
            dry_run: Write the files to this new folder instead.
            base_model: The teacher in the store; default: from its reference.
            license: Default: that of ``base_model``.
            dataset: The data that accuracy was measured on.
            proof: The result of ``verify``, if the exported file was verified and has not changed since.
        """


# -- optional: objects in memory, which have no descriptor -------------------------------------------------------------


@runtime_checkable
class SaysNeeds(Protocol):
    """An object passed to ``zsq.quantize`` with its needs, from the vocabulary in docs/options.md."""

    needs: frozenset[str] | set[str] | tuple[str, ...]


@runtime_checkable
class SaysProvides(Protocol):
    """An object passed to ``zsq.quantize`` with what it provides."""

    provides: frozenset[str] | set[str] | tuple[str, ...]


# -- optional: components ----------------------------------------------------------------------------------------------


@runtime_checkable
class Resumable(Protocol):
    """Saves and restores resumable state. For synthesizers, calibrators and tuners.

    ``state_dict()`` is called between two beats or two batches, and returns everything that later work depends on, in mappings, lists
    and tuples of tensors and plain values. ``load_state_dict(state)`` is called on a new component with the same options and teacher,
    before its work begins; ``fit`` or ``prepare`` then continues after the beat of that state, with the same bits. The engine saves the
    student and the component's ``ctx.rng``; other random generators belong to the state.

    Without it, a calibrator or tuner starts its work again, and a synthesizer with ``prepare`` or ``update`` the whole run.
    """

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Staged(Protocol):
    """A synthesizer that works before the first batch: ``prepare`` runs once."""

    def prepare(self, probe: Probe) -> Iterator[Beat]: ...


@runtime_checkable
class Alternating(Protocol):
    """A synthesizer whose generator is trained together with the student: ``update`` is one step. Optional: :class:`Paced`."""

    def update(self, probe: Probe) -> Update: ...


@runtime_checkable
class Paced(Protocol):
    """An alternating synthesizer with its own cadence; without it generator and student take turns, see :class:`zsq.types.Cadence`."""

    @property
    def cadence(self) -> Cadence: ...


@runtime_checkable
class Pooled(Protocol):
    """A synthesizer that makes all images in ``prepare``: ``pool`` (N, C, H, W), empty before."""

    pool: Tensor


@runtime_checkable
class Batched(Protocol):
    """A component with its own batch size, ``batch`` images. Messages about memory name it."""

    batch: int


@runtime_checkable
class Measuring(Protocol):
    """A quantizer that measures on a pool of images before ``quantize``. The budget does not end this work."""

    def prepare(self, teacher: Teacher, pool: Batch) -> Iterator[Beat]: ...


@runtime_checkable
class Classed(Protocol):
    """A task with one class per image; its descriptor provides ``classes``."""

    def targets(self, n: int, rng: torch.Generator) -> Tensor:
        """``n`` classes (N,) to make images of."""


@dataclass(frozen=True)
class Box:
    """A box in an image: ``corners`` (left, top, right, bottom) in input pixels, the number of its class, its probability."""

    corners: tuple[float, float, float, float]
    label: int
    score: float


@dataclass(frozen=True)
class Drawing:
    """A network's answer for one image, to draw over it.

    Args:
        said: The answer in words, for screen readers.
        names: Names of the classes, by number.
        areas: Class number of each place (H, W), negative for none; None if there are no areas.
        boxes: The most probable first.
    """

    said: str
    names: tuple[str, ...]
    areas: Tensor | None = None
    boxes: tuple[Box, ...] = ()


@runtime_checkable
class Drawn(Protocol):
    """A task whose answers have places in the image."""

    def draw(self, output: Any, teacher: Teacher) -> list[Drawing]:
        """A drawing of the answer for each image, with the teacher's class names."""


@runtime_checkable
class PartlyFloat(Protocol):
    """A task with computations after the network.

    ``float_parts`` names them, in words. They run in float for teacher and student, and the report says so.
    """

    @property
    def float_parts(self) -> tuple[str, ...]: ...


@runtime_checkable
class Checked(Protocol):
    """An evaluator that checks its files before the run does any work."""

    def check(self, ctx: Context) -> None:
        """Raises a ``FileError`` if they are missing or damaged."""


@runtime_checkable
class Detailed(Protocol):
    """An evaluator with results beyond numbers.

    ``details`` of the last ``evaluate``, a new mapping every time. Known keys: ``answers`` and ``labels``, integers (N,), the class that
    the network gave to each image and the right one; ``by_class``, name of a metric to values in percent by class name, None for a
    class without images.
    """

    details: Mapping[str, Any]


@runtime_checkable
class Verifying(Protocol):
    """An exporter that can compare its file with the student."""

    def exported(self, run: Path) -> bool:
        """Whether its file is in the run folder."""

    def verify(self, student: nn.Module, images: Tensor, run: Path) -> dict[str, Any]:
        """Compare the exported file in ``run`` with the student on normalised ``images`` (N, C, H, W).

        Returns:
            ``exported`` (name of the exporter), ``files`` (names of the exported files), ``runtime``, ``images``, ``argmax_agreement``
            (percent), ``max_abs_diff``, ``spread``, ``first`` (the first layer that differs, or None), ``integer`` and ``floating``
            (paths of layers).
        """


@runtime_checkable
class Timing(Protocol):
    """An exporter that can time its file and the teacher in the same runtime."""

    def bench(self, teacher: Teacher, run: Path, threads: int, batch: int) -> dict[str, Any]:
        """Latency and throughput of both; ``speedup`` is None if the student runs in float."""


class Repository(Protocol):
    """One version of a repository in a store; ``config`` is its ``config.json``, ``ref`` names exactly these files."""

    @property
    def name(self) -> str: ...
    @property
    def commit(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def ref(self) -> str: ...

    def folder(self, *patterns: str) -> Path:
        """The folder with the files that match, downloaded if necessary."""

    def license(self) -> str:
        """The licence in its card; empty if there is none."""

    def weights(self, trust_code: bool) -> dict[str, Tensor]:
        """Its tensors by name."""
