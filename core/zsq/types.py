"""The values that components pass to each other: batches, teacher and student, views, context. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from zsq.errors import ComponentError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from zsq.points import QuantPoint

__all__ = [
    "Batch",
    "Beat",
    "BnStats",
    "Cadence",
    "Context",
    "Finder",
    "InputSpec",
    "Objective",
    "Precision",
    "Probe",
    "Say",
    "Student",
    "Task",
    "Teacher",
    "Trace",
    "Update",
    "View",
]


@dataclass(frozen=True)
class InputSpec:
    """The inputs of a network: ``shape`` (C, H, W); normalised as ``(pixels in [0, 1] - mean) / std`` per channel."""

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
    """Normalised inputs (N, C, H, W); ``targets`` are classes, hard (N,) or soft (N, K), or None."""

    inputs: Tensor
    targets: Tensor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    def detached(self) -> Batch:
        """The same batch, detached from its autograd graph."""
        targets = None if self.targets is None else self.targets.detach()
        return Batch(self.inputs.detach(), targets, {k: _detached(v) for k, v in self.extra.items()})


@dataclass(frozen=True)
class BnStats:
    """Mean and biased variance of a BatchNorm layer's input over (N, H, W), and its running statistics."""

    mean: Tensor
    var: Tensor
    running_mean: Tensor
    running_var: Tensor


@dataclass(frozen=True)
class Trace:
    """Captured values of one network for one batch. ``captured`` names the needs that it contains."""

    output: Any
    features: Mapping[str, Tensor] = field(default_factory=dict)
    bn: Mapping[str, BnStats] = field(default_factory=dict)
    captured: frozenset[str] = frozenset()

    def detached(self) -> Trace:
        """The same values, detached from their autograd graph."""
        bn = {k: BnStats(v.mean.detach(), v.var.detach(), v.running_mean, v.running_var) for k, v in self.bn.items()}
        return Trace(_detached(self.output), {k: v.detach() for k, v in self.features.items()}, bn, self.captured)


@dataclass(frozen=True)
class View:
    """Everything that a loss may read in one step. A network that no need names is None."""

    batch: Batch
    teacher: Trace | None
    student: Trace | None
    task: Task
    step: int = 0


@dataclass(frozen=True)
class Beat:
    """One step of long work. Between two beats the engine shows progress, writes checkpoints and may stop.

    Metrics are single numbers; NaN or Inf stops the run. ``loss`` is the sum of the others, if they add up.
    """

    step: int
    total: int
    metrics: Mapping[str, float | Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """The result of one generator step: its batch and, if the step ran the teacher on it, the teacher's trace."""

    batch: Batch
    teacher: Trace | None = None
    metrics: Mapping[str, float | Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Cadence:
    """How generator and student take turns: ``synth`` generator steps for every ``student`` batches. ``reuse``: the student gets the
    generator's batch. ``observes``: the student's activation points observe while a generator step runs the student."""

    synth: int = 1
    student: int = 1
    first: Literal["synth", "student"] = "synth"
    reuse: bool = True
    observes: bool = False


@runtime_checkable
class Task(Protocol):
    """What a network's output means: a tensor, or tensors in mappings and tuples.

    ``name`` is the task's name, ``classes`` the number of classes, ``unit`` the thing that gets one answer, in the plural (images,
    pixels). :mod:`zsq.protocols` has the optional parts. A subclass needs ``logits`` and ``distance``; the defaults of the others are
    for outputs that are logits only.
    """

    name: str
    classes: int
    unit: str

    def logits(self, output: Any) -> Tensor:
        """Logits (N, K, ...): dimension 1 is the class, further ones are places in the image.

        Raises:
            ZsqError: If the output has none.
        """

    def probabilities(self, output: Any) -> Tensor | None:
        """Probabilities, shaped as the logits; None if several classes can be right at one place."""
        return self.logits(output).float().softmax(1)

    def values(self, output: Any) -> tuple[Tensor, ...]:
        """Everything that a student must reproduce: the logits, then the rest, each (N, ...)."""
        return (self.logits(output),)

    def distance(self, student: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
        """Distance of two outputs, a scalar; zero if they are equal."""

    def wrong(self, output: Any, inputs: Tensor) -> str:
        """What is wrong with an output for these inputs (N, C, H, W), in words; empty if nothing is."""
        shape, n = tuple(self.logits(output).shape), len(inputs)
        return "" if len(shape) > 1 and shape[0] == n else f"outputs {shape} for {n} images, but should give logits ({n}, classes, ...)"


class Objective(Protocol):
    """The weighted sum of the losses, which a tuner minimises. ``needs`` is everything that they read."""

    needs: frozenset[str]

    def __call__(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, and each term by name, unweighted and detached."""


@dataclass(frozen=True)
class Teacher:
    """A frozen network in eval mode.

    Args:
        module: The network; no component changes it.
        inputs: Its input spec.
        task: What its output means.
        ref: The reference it was loaded from.
        taps: Paths of the modules whose outputs are features.
        blocks: Paths of its residual stages or blocks.
        head: Path of the last layer, or empty.
        fingerprint: SHA-256 over names, shapes and values of its tensors.
        labels: Names of its classes, if known.
        license: License of its weights, if known.
        evaluation: Its default ``--eval`` (``npz:PATH``), if it comes with real images.
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


@dataclass(frozen=True)
class Student:
    """A quantized network.

    Args:
        module: The network; takes the teacher's inputs.
        points: Path to quantization point, in the order of execution.
        names: Teacher module path to student module path, for every tap, block and BatchNorm.
        layers: One row per layer of the teacher: quantized, or left in float and why.
        scheme: Which values are quantized: ``paper`` or ``deploy``.
        details: More facts from the quantizer, as JSON values: ``student.details`` of the report.
        finish: Called once, after all points are frozen and before the evaluation.
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

    def freeze(self) -> None:
        """End all changes: the codes and ranges are now those that are evaluated and saved."""
        for point in self.points.values():
            point.freeze()
        if self.finish is not None:
            self.finish()
        self.module.eval().requires_grad_(False)

    @contextmanager
    def observing(self, on: bool = True) -> Iterator[None]:
        """Inside, every activation point observes its range (with ``on=False``: none does)."""
        before = {path: point.observing for path, point in self.acts.items()}
        for point in self.acts.values():
            point.observing = on
        try:
            yield
        finally:
            for path, point in self.acts.items():
                point.observing = before[path]


class Probe(Protocol):
    """Runs teacher and student on a batch, as far as the needs require; see :class:`zsq.training.Probe`."""

    def __call__(self, batch: Batch, needs: frozenset[str] | set[str], teacher: Trace | None = None, step: int = 0) -> View: ...


Say = Callable[[str], None]
"""Shows a message to the user."""


@dataclass(frozen=True)
class Precision:
    """The arithmetic of training, ``fp32`` or ``bf16``, on one kind of device."""

    name: str
    device: str = "cpu"

    def autocast(self) -> AbstractContextManager[Any]:
        """A context for forward passes; parameters and optimizers stay in float32."""
        if self.name != "bf16":
            return nullcontext()
        import torch

        return torch.autocast(self.device, torch.bfloat16)


class Finder(Protocol):
    """Builds another component; :meth:`Context.find` calls it."""

    def __call__(self, ctx: Context, role: str, name: str, options: Mapping[str, Any]) -> Any: ...


def _unchanged(step: int, steps: int) -> float:
    return step


@dataclass(frozen=True)
class Context:
    """What a component may use besides its options. New fields do not change signatures.

    Args:
        rng: The component's own generator, seeded from ``seed`` and its role.
        device, precision, seed, batch_size: Of the run.
        workdir: Files in it become part of the run folder; None if nothing is written.
        log: Shows a message to the user.
        trust_code: Whether weights files may contain code.
        cache: Folder of things that later runs can use again, see :mod:`zsq.files`; None keeps nothing.
        task: For teacher sources: makes the task for a number of classes; None means the default task.
        finder: Behind :meth:`find`.
        teacher: None for teacher sources and tasks.
        student: None before quantization.
        objective: None if there are no losses.
        probe: None before quantization.
        schedule: ``schedule(step, steps)`` is the position in a learning-rate schedule: ``step``, unless a budget shortens it.
        sampler: ``sampler(n)`` draws images from the finished synthesizer, for evaluators.
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
    schedule: Callable[[int, int], float] = _unchanged
    sampler: Callable[[int], Batch] | None = None

    def with_(self, **changes: Any) -> Context:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def find(self, role: str, name: str, options: Mapping[str, Any] | None = None) -> Any:
        """Build another installed component with this context, its random generator included.

        Args:
            role: Its role, e.g. ``"reader"``.
            name: Its name, or the name of a preset.
            options: Values of its options; the others have their defaults.

        Raises:
            ComponentError: If there is none; the hint names the plugin to install, if one is known.
            OptionError: If it has no such option, or refuses a value.
        """
        if self.finder is None:
            raise ComponentError(f"this context cannot find the {role} '{name}'", "", "the context of a run finds all components")
        return self.finder(self, role, name, options or {})


def _detached(value: Any) -> Any:
    if hasattr(value, "detach"):
        return value.detach()
    if isinstance(value, Mapping):
        return {k: _detached(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_detached(v) for v in value)
    return value
