"""What every part of a chain promises. No base class is imposed: whatever has these methods and attributes satisfies a protocol.

First one protocol per role. Then, under "Optional", what a component may have beyond it: the core asks with ``isinstance``, so a
component has a part where it has all members of that part's protocol. Implementations are built as ``Impl(options, ctx)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from zsq.events import Event
    from zsq.grids import Grid
    from zsq.types import Batch, Beat, Cadence, Context, Drawing, Probe, Published, Student, Teacher, Trace, Update, View

__all__ = [
    "Alternating",
    "Batched",
    "Calibrator",
    "Checked",
    "Classed",
    "Detailed",
    "Drawn",
    "Evaluator",
    "Exporter",
    "Gridded",
    "KeepsState",
    "LearnsRange",
    "Log",
    "Loss",
    "Measuring",
    "Objective",
    "Paced",
    "PartlyFloat",
    "Pooled",
    "Quantizer",
    "Reader",
    "Repository",
    "Resumable",
    "Roundable",
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
    """Turns the part of a reference after ``NAME:`` into a teacher."""

    def load(self, ref: str) -> Teacher: ...


@runtime_checkable
class Task(Protocol):
    """What a network's output means, whatever it consists of: a tensor, or tensors in mappings and tuples.

    ``name`` is the task's name; ``classes`` the number of classes it tells apart; ``unit`` what has an answer of its own, in the
    plural: images, or their places. See :class:`Classed`, :class:`Drawn` and :class:`PartlyFloat` for what a task may have.

    A subclass of it has to say ``logits`` and ``distance`` only: the others have defaults, for outputs that are logits and nothing else.
    """

    name: str
    classes: int
    unit: str

    def logits(self, output: Any) -> Tensor:
        """Logits of the classes (N, K, ...): dimension 1 tells them apart, further ones are places in the image.

        Raises:
            ZsqError: When the output holds none.
        """

    def probabilities(self, output: Any) -> Tensor | None:
        """Probabilities of the classes, shaped as the logits; None where classes do not exclude each other at every place."""
        return self.logits(output).float().softmax(1)

    def values(self, output: Any) -> tuple[Tensor, ...]:
        """Everything in which a student is to be like its teacher: the logits, then what else there is, each (N, ...)."""
        return (self.logits(output),)

    def distance(self, student: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
        """How far an output is from the teacher's, a scalar; zero at equality."""

    def wrong(self, output: Any, inputs: Tensor) -> str:
        """What keeps an output from being one for these inputs (N, C, H, W), in words; empty when nothing does."""
        shape, n = tuple(self.logits(output).shape), len(inputs)
        return "" if len(shape) > 1 and shape[0] == n else f"outputs {shape} for {n} images, but should give logits ({n}, classes, ...)"


@runtime_checkable
class Synthesizer(Protocol):
    """Makes batches. Only ``sample`` is required; see :class:`Staged`, :class:`Alternating` and :class:`Pooled`."""

    def sample(self, n: int) -> Batch: ...


@runtime_checkable
class Quantizer(Protocol):
    """Gives a new student; never touches the teacher. ``pool`` is None unless the quantizer needs ``pool``. See :class:`Measuring`."""

    def quantize(self, teacher: Teacher, pool: Batch | None) -> Student: ...


@runtime_checkable
class Calibrator(Protocol):
    """No gradient on weights: ranges, BatchNorm statistics, biases, weights equalized. Works on any quantizer's points."""

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]]) -> Iterator[Beat]: ...


@runtime_checkable
class Loss(Protocol):
    """A pure function of a view: a scalar tensor."""

    def __call__(self, view: View) -> Tensor: ...


@runtime_checkable
class Stream(Protocol):
    """Batches without end, each with what the teacher said of it where it is known. Pulling is what moves a generator.

    ``metrics`` are those of the last generator step, empty where there was none; ``batch_size`` is the number of images in a batch.
    A calibrator or tuner bears plain iterators too.
    """

    metrics: dict[str, Any]
    batch_size: int

    def __iter__(self) -> Iterator[tuple[Batch, Trace | None]]: ...
    def __next__(self) -> tuple[Batch, Trace | None]: ...


class Objective(Protocol):
    """The weighted sum of the chosen losses: what a tuner minimises. ``needs`` is all that they read."""

    needs: frozenset[str]

    def __call__(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, and every term by name, unweighted and detached."""


@runtime_checkable
class Tuner(Protocol):
    """Gradient work on the student."""

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Trace | None]], objective: Objective) -> Iterator[Beat]: ...


@runtime_checkable
class Evaluator(Protocol):
    """Named numbers of a module. ``ref`` is what followed ``NAME:`` on ``--eval``.

    One that compares the student with its teacher says so in its descriptor (needs ``teacher.output``); it is not run on the teacher
    itself. See :class:`Checked` and :class:`Detailed`.
    """

    def evaluate(self, module: nn.Module, ctx: Context) -> Mapping[str, float]: ...


@runtime_checkable
class Exporter(Protocol):
    """Writes files of a finished student into ``folder`` and returns their paths. See :class:`Verifying` and :class:`Timing`."""

    def export(self, student: Student, manifest: Mapping[str, Any], folder: Path) -> list[Path]: ...


@runtime_checkable
class Log(Protocol):
    """Hears every event of the runs that name it. ``ref`` is what followed ``NAME:`` on ``--log``.

    What cannot work is said when it is built, and the run does not begin. An error after that costs the log, not the run.
    """

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None:
        """The run is over, however it ended."""


@runtime_checkable
class Reader(Protocol):
    """Makes a teacher of what a library published in a store. Its name is the library's."""

    def read(self, repository: Repository) -> Teacher: ...


@runtime_checkable
class Store(Protocol):
    """A place that finished students are published to and fetched from. A place is named ``STORE:REST``."""

    def fetch(self, place: str, revision: str | None = None, *, exported: bool = False) -> Path:
        """The folder of a published student, on this machine.

        Args:
            place: What stands after ``STORE:``.
            revision: Branch, tag or commit.
            exported: Whether the files of exporters are wanted as well.
        """

    def ready(self, place: str) -> None:
        """Fail before a run what would fail after it.

        Raises:
            ZsqError: When nobody may publish there.
        """

    def push(self, run: Path, place: str, *, private: bool | None = None, dry_run: Path | None = None, base_model: str | None = None,
             license: str | None = None, dataset: str | None = None, proof: Mapping[str, Any] | None = None) -> Published:  # fmt: skip
        """Publish the run in folder ``run``.

        Args:
            run: Folder of a finished run.
            place: What stands after ``STORE:``.
            private: Who may see it; None leaves that to the store.
            dry_run: Write what would be published to this new folder instead.
            base_model: The teacher in the store; by default the one that its reference names.
            license: Default: that of ``base_model``.
            dataset: What the accuracy was measured on.
            proof: What ``verify`` found of the exported file, where it was verified as it lies there.
        """


# -- optional: objects in memory, which have no descriptor -------------------------------------------------------------


@runtime_checkable
class SaysNeeds(Protocol):
    """An object given to ``zsq.quantize`` that says what it needs, from the vocabulary of docs/options.md."""

    needs: frozenset[str] | set[str] | tuple[str, ...]


@runtime_checkable
class SaysProvides(Protocol):
    """One that says what it provides."""

    provides: frozenset[str] | set[str] | tuple[str, ...]


# -- optional: components ----------------------------------------------------------------------------------------------


@runtime_checkable
class Resumable(Protocol):
    """A component that can be taken up in the middle of its work; asked of synthesizers, calibrators and tuners where they have it.

    ``state_dict()`` is taken between two beats, or between two batches, and holds all that later work depends on, in mappings,
    lists and tuples of tensors and plain values. ``load_state_dict(state)`` is called on a component newly built with the same
    options and teacher, before its work is begun: ``fit`` or ``prepare`` then goes on after the beat of that state, bit for bit
    as if nothing had been. The engine keeps the student, and puts back the component's ``ctx.rng`` afterwards; other generators
    are part of the state.

    Without them a calibrator or tuner begins its work again. A synthesizer that works ahead (``prepare`` or ``update``)
    makes the whole run begin again.
    """

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Staged(Protocol):
    """A synthesizer with staged work: ``prepare`` runs once, before the first batch."""

    def prepare(self, probe: Probe) -> Iterator[Beat]: ...


@runtime_checkable
class Alternating(Protocol):
    """A synthesizer that learns while the student does: ``update`` is one step of its generator. See :class:`Paced`."""

    def update(self, probe: Probe) -> Update: ...


@runtime_checkable
class Paced(Protocol):
    """An alternating synthesizer that says who moves when; without it the two take turns, see :class:`zsq.types.Cadence`."""

    @property
    def cadence(self) -> Cadence: ...


@runtime_checkable
class Pooled(Protocol):
    """A synthesizer whose images are all made ahead: ``pool`` (N, C, H, W), empty before ``prepare``."""

    pool: Tensor


@runtime_checkable
class Batched(Protocol):
    """A component that works on batches of a size of its own: ``batch`` images. Messages about memory name it."""

    batch: int


@runtime_checkable
class Measuring(Protocol):
    """A quantizer that needs a pool and measures on it before ``quantize``: long work, run to its end."""

    def prepare(self, teacher: Teacher, pool: Batch) -> Iterator[Beat]: ...


@runtime_checkable
class Classed(Protocol):
    """A task that gives every image one class; its descriptor provides ``classes``."""

    def targets(self, n: int, rng: torch.Generator) -> Tensor:
        """``n`` classes (N,) as images of them are to be made."""


@runtime_checkable
class Drawn(Protocol):
    """A task whose answers have places."""

    def draw(self, output: Any, teacher: Teacher) -> list[Drawing]:
        """What the output says of each image, by the teacher's names."""


@runtime_checkable
class PartlyFloat(Protocol):
    """A task in which more is done with an output before it is an answer.

    ``float_parts`` names it, in words: it is outside of the network, is calculated in float for teacher and student alike, and the
    report says so.
    """

    @property
    def float_parts(self) -> tuple[str, ...]: ...


@runtime_checkable
class Checked(Protocol):
    """An evaluator that can look at its files before any work is done on the student."""

    def check(self, ctx: Context) -> None:
        """Raises a ``FileError`` when they are missing or damaged."""


@runtime_checkable
class Detailed(Protocol):
    """An evaluator that finds more than numbers.

    ``details`` of the last ``evaluate``, a new mapping every time. Listeners of a run know ``answers`` and ``labels``: integers (N,),
    the class given to every image and the right one; and ``by_class``: name of a metric to its values in percent by name of class,
    None where a class has none.
    """

    details: Mapping[str, Any]


@runtime_checkable
class Verifying(Protocol):
    """An exporter that can prove what its file computes."""

    def exported(self, run: Path) -> bool:
        """Whether its file lies in the folder of a run."""

    def verify(self, student: nn.Module, images: Tensor, run: Path) -> dict[str, Any]:
        """Compare the exported file in ``run`` with the student on ``images`` (N, C, H, W), normalised.

        Returns:
            ``exported`` (name of the exporter), ``files`` (names of the exported files), ``runtime``, ``images``, ``argmax_agreement``
            (percent), ``max_abs_diff``, ``spread``, ``first`` (the first layer that differs, or None), ``integer`` and ``floating``
            (paths of layers).
        """


@runtime_checkable
class Timing(Protocol):
    """An exporter that can time its file beside the teacher, in the same runtime."""

    def bench(self, teacher: Teacher, run: Path, threads: int, batch: int) -> dict[str, Any]:
        """Latency and throughput of both; ``speedup`` is None where the student calculates in float."""


class Repository(Protocol):
    """One version of what somebody published in a store; ``config`` is its ``config.json``, ``ref`` means these files for ever."""

    @property
    def name(self) -> str: ...
    @property
    def commit(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def ref(self) -> str: ...

    def folder(self, *patterns: str) -> Path:
        """The folder with those of its files that match, downloaded if need be."""

    def license(self) -> str:
        """The licence that its card names; empty where there is none."""

    def weights(self, trust_code: bool) -> dict[str, Tensor]:
        """Its tensors by name."""


# -- optional: quantization points -------------------------------------------------------------------------------------


@runtime_checkable
class KeepsState(Protocol):
    """A point that remembers more than parameters and buffers: tensors and plain values for checkpoints."""

    def kept_state(self) -> Mapping[str, Any]: ...
    def load_kept_state(self, values: Mapping[str, Any]) -> None: ...


@runtime_checkable
class LearnsRange(Protocol):
    """An activation point whose range a tuner may move by gradient.

    ``learn_range(True)`` gives it the parameter ``log_range`` (or leaves it None, where the point has no range or is frozen), which an
    optimizer moves; ``apply_learned()`` after every step stretches the range by it and sets it back to zero; ``learn_range(False)``
    takes it away.
    """

    log_range: nn.Parameter | None

    def learn_range(self, on: bool) -> None: ...
    def apply_learned(self) -> None: ...


@runtime_checkable
class Gridded(Protocol):
    """A point that shows its present ``grid``: an activation's of one element, a weight's shaped to broadcast against it."""

    @property
    def grid(self) -> Grid: ...


@runtime_checkable
class Roundable(Gridded, Protocol):
    """A weight point whose codes can be chosen: what methods that round with care, or learn the rounding, work on.

    ``codes`` are the integers (int32) that the weight has on its grid; ``fix(codes, scale, zero_point)`` freezes the point at given
    codes and overwrites the weight with their values.
    """

    @property
    def codes(self) -> Tensor: ...
    def fix(self, codes: Tensor, scale: Tensor, zero_point: Tensor) -> None: ...
