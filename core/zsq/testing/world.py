"""Builds the objects that checks and tests need: a tiny teacher, contexts, components by name, engine objects (``Stream``,
``Objective`` of ``Term``), snapshots of state that a component must not change, and test doubles."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zsq._builtin.classify import Classify
from zsq._builtin.options import ClassifyOptions
from zsq._component import Role
from zsq._compose import compose
from zsq._manager import Manager
from zsq._recipe import read_recipe
from zsq._run.engine import run
from zsq._run.lookup import finder
from zsq._run.stream import Stream
from zsq.errors import FileError
from zsq.protocols import Staged
from zsq.teachers import read_weights
from zsq.testing import teachers
from zsq.training import Objective, Probe, Term, batch_norms
from zsq.types import Batch, Beat, Cadence, Context, InputSpec, Precision, Student, Teacher, Update

__all__ = [
    "AlternatingNoise",
    "FolderRepository",
    "Manager",
    "Objective",
    "PlainPoint",
    "StagedNoise",
    "Stream",
    "Term",
    "changed",
    "compose",
    "digest",
    "global_state",
    "make_batch",
    "make_component",
    "make_context",
    "make_stream",
    "make_teacher",
    "module_state",
    "plain_student",
    "read_recipe",
    "run",
    "write_images",
]


def make_context(folder: Path, *, seed: int = 0, teacher: Teacher | None = None, student: Student | None = None, objective: Any = None,
                 batch_size: int = 4, manager: Manager | None = None) -> Context:  # fmt: skip
    """A context like the engine's: float32, CPU, its own generator, a silent log; ``find`` uses the components of ``manager``."""
    precision = Precision("fp32")
    ctx = Context(
        rng=torch.Generator().manual_seed(seed),
        device=torch.device("cpu"),
        precision=precision,
        workdir=folder,
        log=lambda message: None,
        seed=seed,
        batch_size=batch_size,
        student=student,
        objective=objective or Objective([]),
        finder=finder(manager),
    )
    return ctx if teacher is None else ctx.with_(teacher=teacher, probe=Probe(teacher, precision, student))


def make_teacher(module: nn.Module | None = None, classes: int = teachers.CLASSES, shape: tuple[int, ...] = teachers.SHAPE) -> Teacher:
    """The tiny teacher, or another module as a teacher whose taps and blocks are those of the tiny one that it has."""
    module = module or teachers.tiny()
    paths = {path for path, _ in module.named_modules()}
    task = Classify(ClassifyOptions(classes=classes), make_context(Path()))
    return Teacher(
        module=module,
        inputs=InputSpec(shape, (0.0,) * shape[0], (1.0,) * shape[0]),
        task=task,
        ref="testing:tiny",
        taps=tuple(path for path in teachers.TAPS if path in paths),
        blocks=tuple(path for path in teachers.BLOCKS if path in paths),
        head=teachers.HEAD,
        fingerprint=digest(module.state_dict()),
    )


def make_component(role: str, name: str, ctx: Context | None = None, **options: Any) -> Any:
    """A component that is installed, or a preset, built as the engine builds it, e.g. ``make_component("loss", "kd", temperature=4.0)``."""
    found = _manager().get(Role(role), name)
    values = {**found.values, **options}
    return found.component.implementation()(found.component.options.parse(values), ctx or make_context(Path()))


@cache
def _manager() -> Manager:
    return Manager.discover()


def make_batch(teacher: Teacher, n: int = 4, *, soft: bool = False, seed: int = 7) -> Batch:
    """Noise with targets, hard or soft."""
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn((n, *teacher.inputs.shape), generator=rng)
    targets = torch.randint(teacher.task.classes, (n,), generator=rng)
    return Batch(inputs, nn.functional.one_hot(targets, teacher.task.classes).float() if soft else targets)


def write_images(path: Path, teacher: Teacher, n: int = 12) -> Path:
    """An ``.npz`` of ``images`` (n, H, W, C) uint8 and ``labels`` (n,), noise in the teacher's shape."""
    rng = np.random.default_rng(1)
    channels, height, width = teacher.inputs.shape
    images = rng.integers(0, 256, (n, height, width, channels), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(n) % teacher.task.classes)
    return path


def make_stream(teacher: Teacher, student: Student, synth: Any = None, batch_size: int = 4) -> Stream:
    """The engine's stream over ``synth`` (staged noise by default), its staged work done."""
    probe = Probe(teacher, Precision("fp32"), student)
    synth = synth or StagedNoise(teacher)
    if isinstance(synth, Staged):
        for _ in synth.prepare(probe):
            pass
    return Stream(synth, probe, student, batch_size)


def digest(value: Any) -> str:
    """SHA-256 of tensors, modules, containers of them and plain values: equal means bit-identical."""
    sha = hashlib.sha256()
    _feed(sha, value)
    return sha.hexdigest()


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        sha.update(f"{array.dtype}{tuple(array.shape)}".encode())
        sha.update(array.flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key, item in value.items():
            sha.update(str(key).encode())
            _feed(sha, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(sha, item)
    else:
        sha.update(repr(value).encode())


def module_state(module: nn.Module) -> dict[str, Any]:
    """The state of a network that a component must not change: values, modes, grads, flags and hooks."""
    state: dict[str, Any] = {"values": digest(module.state_dict())}
    for path, child in module.named_modules():
        hooks = sum(len(v) for k, v in vars(child).items() if k.endswith("_hooks") and isinstance(v, dict))
        state[f"{path}: mode, hooks"] = (child.training, hooks)
    for path, parameter in module.named_parameters():
        state[f"{path}: requires_grad, grad"] = (parameter.requires_grad, None if parameter.grad is None else digest(parameter.grad))
    return state


def global_state() -> dict[str, Any]:
    """The process-wide state that a component must not change."""
    return {
        "torch's random state": digest(torch.random.get_rng_state()),
        "numpy's random state": digest(torch.from_numpy(np.asarray(np.random.get_state(legacy=False)["state"]["key"]).astype("int64"))),
        "python's random state": hash(random.getstate()),
        "grad mode": torch.is_grad_enabled(),
        "default dtype": str(torch.get_default_dtype()),
        "number of threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The keys whose value differs."""
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


class StagedNoise:
    """A staged synthesizer: makes a pool once, then samples from it in turn."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.pool, self.next = teacher, torch.empty(0), 0

    def prepare(self, probe: Any) -> Iterator[Beat]:
        self.pool = make_batch(self.teacher, 64, seed=3).inputs
        yield Beat(1, 1)

    def sample(self, n: int) -> Batch:
        index = [(self.next + i) % len(self.pool) for i in range(n)]
        self.next += n
        inputs = self.pool[index]
        return Batch(inputs, torch.arange(n) % self.teacher.task.classes)


class AlternatingNoise:
    """An alternating synthesizer with one learnable image per class."""

    def __init__(self, teacher: Teacher, cadence: Cadence | None = None) -> None:
        self.teacher, self.cadence = teacher, replace(cadence or Cadence(), observes=True)
        self.rng = torch.Generator().manual_seed(5)
        self.images = torch.randn((teacher.task.classes, *teacher.inputs.shape), generator=self.rng).requires_grad_()

    def sample(self, n: int) -> Batch:
        targets = torch.arange(n) % self.teacher.task.classes
        noise = torch.randn((n, *self.teacher.inputs.shape), generator=self.rng)
        return Batch(self.images[targets] + noise, targets)

    def update(self, probe: Any) -> Update:
        batch = self.sample(4)
        view = probe(batch, {"teacher.output", "student.output"})
        assert batch.targets is not None
        loss = nn.functional.cross_entropy(view.teacher.output, batch.targets)
        (grad,) = torch.autograd.grad(loss, [self.images])
        with torch.no_grad():
            self.images -= 0.1 * grad
        return Update(batch, view.teacher, {"loss": loss.detach()})


class PlainPoint(nn.Module):
    """A quantization point with nothing beyond the protocol: asymmetric, one range per tensor."""

    kind = "act"
    lo: Tensor
    hi: Tensor

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits, self.observing, self.frozen, self.ranged = bits, False, False, False
        self.register_buffer("lo", torch.zeros(()))
        self.register_buffer("hi", torch.ones(()))

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        return self.lo, self.hi

    @property
    def scale(self) -> Tensor:
        return ((self.hi - self.lo) / ((1 << self.bits) - 1)).clamp_min(1e-8)

    @property
    def zero_point(self) -> Tensor:
        return torch.round(-self.lo / self.scale)

    def set_range(self, lo: Tensor | float, hi: Tensor | float) -> None:
        self.lo.copy_(torch.as_tensor(lo).clamp(max=0.0))
        self.hi.copy_(torch.as_tensor(hi).clamp(min=0.0))
        self.ranged = True

    def freeze(self) -> None:
        self.observing, self.frozen = False, True

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            self.set_range(torch.minimum(self.lo, x.detach().amin()), torch.maximum(self.hi, x.detach().amax()))
        code = torch.clamp(torch.round(x / self.scale) + self.zero_point, 0, (1 << self.bits) - 1)
        return x + ((code - self.zero_point) * self.scale - x).detach()


def plain_student(teacher: Teacher, bits: int = 8) -> Student:
    """A student of a foreign quantizer: a copy of the teacher with a :class:`PlainPoint` behind every BatchNorm but the last of a block."""
    module = deepcopy(teacher.module)
    points: dict[str, PlainPoint] = {}
    for path, norm in batch_norms(module).items():
        point = PlainPoint(bits)
        norm.add_module("point", point)
        norm.register_forward_hook(lambda layer, inputs, output: layer.point(output))
        points[f"{path}.point"] = point
    names = {path: path for path in (*teacher.taps, *teacher.blocks, *batch_norms(teacher.module))}
    return Student(module, points, names, scheme="plain")  # type: ignore[arg-type]


class FolderRepository:
    """A repository of a store that is a folder on this machine, for readers: the files in it are the published files.

    Args:
        path: The folder.
        config: What its ``config.json`` says.
    """

    name, commit, ref = "testing/folder", "0" * 40, f"testing:testing/folder@{'0' * 40}"

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path, self.config = path, config
        (path / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def folder(self, *patterns: str) -> Path:
        return self.path

    def license(self) -> str:
        return ""

    def weights(self, trust_code: bool) -> dict[str, Tensor]:
        if not (file := self.path / "model.safetensors").is_file():
            raise FileError(f"'{self.name}' has no {file.name}", self.ref, "name another repository")
        return read_weights(file, trust_code)
