"""One protocol per role. No base class is imposed; every implementation is built as ``Impl(options, ctx)``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zsq.events import Event
    from zsq.types import Batch, Beat, Cadence, Context, Probe, Student, Teacher, Update, View


class TeacherSource(Protocol):
    """Turns the part of a reference after ``NAME:`` into a teacher."""

    def load(self, ref: str) -> Teacher: ...


class Task(Protocol):
    """What a network's output means, whatever it consists of: a tensor, or tensors in mappings and tuples.

    ``name`` is the task's name; ``classes`` the number of classes it tells apart; ``unit`` what has an answer of its own, in the
    plural: images, or their places. One that gives every image one class says so in its descriptor (provides ``classes``), and
    has ``targets(n, rng)``: ``n`` classes (N,) as images of them are to be made. One whose answers have places may have
    ``draw(output, teacher)``: a ``Drawing`` of what the output says of each image, by the teacher's names. Where more is done with
    an output before it is an answer, ``float_parts`` names it, in words: it is outside of the network, is calculated in float for
    teacher and student alike, and the report says so.
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

    def values(self, output: Any) -> tuple[Tensor, ...]:
        """Everything in which a student is to be like its teacher: the logits, then what else there is, each (N, ...)."""

    def distance(self, student: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
        """How far an output is from the teacher's, a scalar; zero at equality."""

    def wrong(self, output: Any, inputs: Tensor) -> str:
        """What keeps an output from being one for these inputs (N, C, H, W), in words; empty when nothing does."""


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


class Synthesizer(Protocol):
    """Makes batches. Only ``sample`` is required.

    ``prepare(probe)`` is staged work, once, before the first batch. ``update(probe)`` is one generator step; its presence
    means "alternating" and ``cadence`` says who moves when. ``observes`` says whether the student's activation points
    watch while ``update`` runs the student.
    """

    def sample(self, n: int) -> Batch: ...


class Staged(Synthesizer, Protocol):
    """A synthesizer with staged work."""

    def prepare(self, probe: Probe) -> Iterator[Beat]: ...


class Alternating(Synthesizer, Protocol):
    """A synthesizer that learns while the student does."""

    cadence: Cadence

    def update(self, probe: Probe) -> Update: ...


class Quantizer(Protocol):
    """Gives a new student; never touches the teacher. ``pool`` is None unless the quantizer needs ``pool``.

    One that needs a pool may have ``prepare(teacher, pool) -> Iterator[Beat]``: long work, run to its end before ``quantize``.
    """

    def quantize(self, teacher: Teacher, pool: Batch | None) -> Student: ...


class Calibrator(Protocol):
    """No gradient on weights: ranges, BatchNorm statistics, biases, weights equalized. Works on any quantizer's points."""

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Any]]) -> Iterator[Beat]: ...


class Loss(Protocol):
    """A pure function of a view: a scalar tensor."""

    def __call__(self, view: View) -> Tensor: ...


class Tuner(Protocol):
    """Gradient work on the student."""

    def fit(self, student: Student, stream: Iterator[tuple[Batch, Any]], objective: Any) -> Iterator[Beat]: ...


class Evaluator(Protocol):
    """Named numbers of a module. ``ref`` is what followed ``NAME:`` on ``--eval``.

    What else it found at the last ``evaluate`` it may leave in ``details``, a new mapping every time. Listeners of a run know
    ``answers`` and ``labels``: integers (N,), the class given to every image and the right one; and ``by_class``: name of a metric
    to its values in percent by name of class, None where a class has none.
    """

    def evaluate(self, module: nn.Module, ctx: Context) -> Mapping[str, float]: ...


class Log(Protocol):
    """Hears every event of the runs that name it. ``ref`` is what followed ``NAME:`` on ``--log``.

    What cannot work is said when it is built, and the run does not begin. An error after that costs the log, not the run.
    """

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None:
        """The run is over, however it ended."""


class Exporter(Protocol):
    """Writes files of a finished student into ``folder`` and returns their paths."""

    def export(self, student: Student, manifest: Mapping[str, Any], folder: Path) -> list[Path]: ...
