"""The values that pass between components: frozen dataclasses, no behaviour beyond detaching and looking up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from zsq.errors import ComponentError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from zsq.protocols import Objective, Task

__all__ = [
    "Batch",
    "Beat",
    "BnStats",
    "Box",
    "Cadence",
    "Context",
    "Drawing",
    "Finder",
    "InputSpec",
    "Precision",
    "Probe",
    "Published",
    "QuantPoint",
    "Say",
    "Student",
    "Teacher",
    "Trace",
    "Update",
    "View",
]


@dataclass(frozen=True)
class InputSpec:
    """How pixels become inputs: ``shape`` (C, H, W), then ``(pixels in [0, 1] - mean) / std`` per channel."""

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W) in [0, 1] to inputs of the network."""
        return (pixels - pixels.new_tensor(self.mean).view(-1, 1, 1)) / pixels.new_tensor(self.std).view(-1, 1, 1)

    def pixels(self, inputs: Tensor) -> Tensor:
        """Inputs (N, C, H, W) to pixels, where 0 is black and 1 is white; not clipped."""
        return inputs * inputs.new_tensor(self.std).view(-1, 1, 1) + inputs.new_tensor(self.mean).view(-1, 1, 1)

    def limits(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Black and white as inputs, each (1, C, 1, 1), with the device and dtype of the tensor ``like``."""
        black = like.new_zeros((1, self.shape[0], 1, 1))
        return self.normalise(black), self.normalise(black + 1)


@dataclass(frozen=True)
class Batch:
    """Inputs (N, C, H, W) in the teacher's normalised space; targets are classes, hard (N,) or soft (N, K), or none."""

    inputs: Tensor
    targets: Tensor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    def detached(self) -> Batch:
        """The same batch, cut from the graph that made it."""
        targets = None if self.targets is None else self.targets.detach()
        return Batch(self.inputs.detach(), targets, {k: _detached(v) for k, v in self.extra.items()})


@dataclass(frozen=True)
class Box:
    """A box in an image: ``corners`` (left, top, right, bottom) in pixels of the input, the number of its class, its probability."""

    corners: tuple[float, float, float, float]
    label: int
    score: float


@dataclass(frozen=True)
class Drawing:
    """What a network says of one image, as something to lay over it.

    Args:
        said: The same in words, for those who do not see it.
        names: Of classes, by their number.
        areas: Class numbers (H, W) of an image's places, negative where there is none; None where areas are nothing to draw.
        boxes: The surest first.
    """

    said: str
    names: tuple[str, ...]
    areas: Tensor | None = None
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class BnStats:
    """Input statistics of one BatchNorm layer over (N, H, W), mean and biased variance, beside its running statistics."""

    mean: Tensor
    var: Tensor
    running_mean: Tensor
    running_var: Tensor


@dataclass(frozen=True)
class Trace:
    """What one network said of one batch. ``captured`` names the needs it holds."""

    output: Any
    features: Mapping[str, Tensor] = field(default_factory=dict)
    bn: Mapping[str, BnStats] = field(default_factory=dict)
    captured: frozenset[str] = frozenset()

    def detached(self) -> Trace:
        """The same values, cut from their graph."""
        bn = {k: BnStats(v.mean.detach(), v.var.detach(), v.running_mean, v.running_var) for k, v in self.bn.items()}
        return Trace(_detached(self.output), {k: v.detach() for k, v in self.features.items()}, bn, self.captured)


@dataclass(frozen=True)
class View:
    """All that a loss may see of one step. A network that no need named is None."""

    batch: Batch
    teacher: Trace | None
    student: Trace | None
    task: Task
    step: int = 0


@dataclass(frozen=True)
class Beat:
    """A heartbeat of long work: progress, budget, checkpoint and clean stop happen between beats.

    Metrics are single numbers; one that is nan or infinite stops the run. ``loss`` is the sum of the others, where they add up.
    """

    step: int
    total: int
    metrics: Mapping[str, float | Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """Outcome of one generator step: the batch it made and, when it ran the teacher on it, what the teacher said."""

    batch: Batch
    teacher: Trace | None = None
    metrics: Mapping[str, float | Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Cadence:
    """Who moves when: ``synth`` generator steps for every ``student`` batches; ``reuse`` hands the generator's batch to the student;
    ``observes``: the student's activation points watch while a generator step runs the student."""

    synth: int = 1
    student: int = 1
    first: Literal["synth", "student"] = "synth"
    reuse: bool = True
    observes: bool = False


@dataclass(frozen=True)
class Teacher:
    """A frozen network in eval mode.

    Args:
        module: The network; nobody changes it.
        inputs: Its input spec.
        task: What its output means.
        ref: The reference it was loaded from.
        taps: Module paths whose outputs are features.
        blocks: Module paths of its residual stages or blocks.
        head: Module path of the last layer, or empty.
        fingerprint: SHA-256 over names, shapes and values of its tensors.
        labels: Names of its classes, where known.
        license: That of its weights, where known.
        evaluation: Default ``--eval`` of this teacher (``npz:PATH``), where it brings real images with it.
    """

    module: nn.Module
    inputs: InputSpec
    task: Task
    ref: str = ""
    taps: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    head: str = ""
    fingerprint: str = ""
    labels: tuple[str, ...] = ()
    license: str = ""
    evaluation: str = ""


@runtime_checkable
class QuantPoint(Protocol):
    """One place where values are put on a grid; the contract between one plugin's calibrator and another's quantizer.

    ``scale`` and ``zero_point`` are tensors, one element per tensor or per output channel; codes are
    ``clamp(round(x / scale) + zero_point, low, high)`` and values ``(code - zero_point) * scale``.

    ``ranged`` says whether a range was set: an activation without one passes on unchanged, a weight without one is live (minimum and
    maximum follow it). ``freeze()`` ends all changes, ``frozen`` from then on. What a point may have beyond this stands in
    :mod:`zsq.protocols`: :class:`~zsq.protocols.LearnsRange`, :class:`~zsq.protocols.Gridded`, :class:`~zsq.protocols.Roundable`,
    :class:`~zsq.protocols.KeepsState`.
    """

    kind: Literal["weight", "act"]
    bits: int
    observing: bool
    frozen: bool

    @property
    def ranged(self) -> bool: ...
    @property
    def range(self) -> tuple[Tensor, Tensor]: ...
    @property
    def scale(self) -> Tensor: ...
    @property
    def zero_point(self) -> Tensor: ...
    def set_range(self, lo: Tensor | float, hi: Tensor | float) -> None: ...
    def freeze(self) -> None: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


@dataclass(frozen=True)
class Student:
    """A quantized network.

    Args:
        module: Runs on teacher-shaped inputs.
        points: Path to quantization point, in the order of execution.
        names: Teacher module path to student module path, for every tap, block and BatchNorm.
        layers: One row per layer of the teacher: what was wrapped, what stayed in float.
        scheme: The name of the placement rules, e.g. ``paper`` or ``deploy``.
        details: What the quantizer has to say beyond that, as JSON values: ``student.details`` of the report.
        finish: Called once after the last change, when all points are frozen and before the student is evaluated.
    """

    module: nn.Module
    points: Mapping[str, QuantPoint]
    names: Mapping[str, str]
    layers: Sequence[Mapping[str, Any]] = ()
    scheme: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[], None] | None = None

    @property
    def acts(self) -> dict[str, QuantPoint]:
        """Activation points only."""
        return {path: point for path, point in self.points.items() if point.kind == "act"}

    @property
    def weights(self) -> dict[str, QuantPoint]:
        """Weight points only."""
        return {path: point for path, point in self.points.items() if point.kind == "weight"}

    @contextmanager
    def observing(self, on: bool = True) -> Iterator[None]:
        """Inside, every activation point that passes data on watches its range (or, with ``on=False``, none does)."""
        before = {path: point.observing for path, point in self.acts.items()}
        for point in self.acts.values():
            point.observing = on
        try:
            yield
        finally:
            for path, point in self.acts.items():
                point.observing = before[path]


@dataclass(frozen=True)
class Published:
    """What became of a push: where it is, the commit (None after a dry run), the names of the files."""

    url: str
    commit: str | None
    files: tuple[str, ...]


class Probe(Protocol):
    """Runs teacher and student on a batch, only as far as the needs say; see :class:`zsq.training.Probe`."""

    def __call__(self, batch: Batch, needs: frozenset[str] | set[str], teacher: Trace | None = None, step: int = 0) -> View: ...


Say = Callable[[str], None]
"""Where a component says something to the user."""


class Precision(Protocol):
    """The arithmetic of training: ``with precision.autocast():`` around forwards."""

    @property
    def name(self) -> str: ...
    def autocast(self) -> AbstractContextManager[Any]: ...


class Finder(Protocol):
    """Builds a component for whoever has the context ``ctx``: what stands behind ``Context.find``."""

    def __call__(self, ctx: Context, role: str, name: str, options: Mapping[str, Any]) -> Any: ...


def _steady(step: int, steps: int) -> float:
    return step


@dataclass(frozen=True)
class Context:
    """What a component may use besides its options. One object, so that it may grow without changing signatures.

    ``teacher`` is None for teacher sources and tasks; ``task(classes)`` gives a teacher source the task that the plan has for its
    teacher, None standing for the default; :meth:`find` builds another component, such as the reader of a library, by means of
    ``finder``; ``student`` is None before quantization; ``objective`` is None where no losses were built; ``sampler(n)`` draws images
    from the finished synthesizer, for evaluators.
    ``pace(step, steps)`` tells a tuner where in a schedule of ``steps`` it is: at ``step``, unless a budget cuts it short. ``rng`` is the
    component's own generator, seeded from ``seed`` and its role. Files put into ``workdir`` come with the run (None where
    nothing is written); ``cache`` is the folder of what later runs may use again (None where nothing is kept), see
    ``zsq.files``.
    """

    rng: torch.Generator
    device: torch.device
    precision: Precision
    workdir: Path | None
    log: Say
    seed: int = 0
    batch_size: int = 64
    trust_code: bool = False
    cache: Path | None = None
    task: Callable[[int], Task] | None = None
    finder: Finder | None = None
    teacher: Teacher = None  # type: ignore[assignment]
    student: Student | None = None
    objective: Objective | None = None
    probe: Probe = None  # type: ignore[assignment]
    pace: Callable[[int, int], float] = _steady
    sampler: Callable[[int], Batch] | None = None

    def with_(self, **changes: Any) -> Context:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def find(self, role: str, name: str, options: Mapping[str, Any] | None = None) -> Any:
        """Another component, chosen by name among all that are installed, and built with this context.

        It shares everything in the context, the random generator too.

        Args:
            role: Its role, e.g. ``"reader"``.
            name: Its name, or that of a preset, as in a recipe.
            options: Values of its options by name; the others have their defaults.

        Raises:
            ComponentError: When there is none; the hint says which plugin to install, where one is known.
            OptionError: When it has no such option, or refuses a value.
        """
        if self.finder is None:
            raise ComponentError(f"no {role} '{name}' can be had here", "", "a context that a run gives knows all components")
        return self.finder(self, role, name, options or {})


def _detached(value: Any) -> Any:
    if hasattr(value, "detach"):
        return value.detach()
    if isinstance(value, Mapping):
        return {k: _detached(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_detached(v) for v in value)
    return value
