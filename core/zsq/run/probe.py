"""The one place that runs teacher and student: only as far as the named needs go, capturing only what they name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zsq.component import STUDENT_NEEDS, TEACHER_NEEDS
from zsq.errors import ZsqError
from zsq.types import Batch, BnStats, Precision, Student, Teacher, Trace, View


class ChannelStats(torch.autograd.Function):
    """Mean and biased variance per channel (dimension 1) of (N, C, ...), in float32; both are differentiable.

    One fused pass forward and one backward, d/dx = dmean / n + 2 (x - mean) dvar / n, instead of the chain that
    ``var_mean`` builds: on a CPU in channels_last bf16 that chain costs more than the convolutions around it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.new_zeros(x.shape[1], dtype=torch.float32)
        mean, var = torch.batch_norm_update_stats(x, channels, channels.clone(), 1.0)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        slope = grads[1] * (2 / n)
        offset = grads[0] / n - slope * mean
        zero = torch.zeros_like(mean)
        return torch.batch_norm(x, slope, offset, zero, zero + 1, False, 0.0, 0.0, False)


def channel_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of ``x`` (N, C, ...) over all dimensions but the second, in float32."""
    return ChannelStats.apply(x)  # type: ignore[no-any-return,no-untyped-call]


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """Path to BatchNorm layer, for every one that keeps running statistics."""
    return {path: m for path, m in module.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}


class Probe:
    """Runs teacher and student on a batch.

    Args:
        teacher: Frozen and in eval mode.
        precision: Arithmetic of the forwards; outputs and statistics are float32.
        student: None until quantization.
        also: Teacher needs to capture at every teacher forward, so that one forward serves generator and student.
    """

    def __init__(self, teacher: Teacher, precision: Precision, student: Student | None = None, also: frozenset[str] = frozenset()) -> None:
        self.teacher, self.precision, self.student, self.also = teacher, precision, student, also & TEACHER_NEEDS
        self._teacher_bn = batch_norms(teacher.module)
        self._teacher_taps = {path: path for path in teacher.taps}

    def __call__(self, batch: Batch, needs: frozenset[str] | set[str], teacher: Trace | None = None, step: int = 0) -> View:
        """A view of ``batch``. ``teacher`` is a cached trace, used when it captured what ``needs`` name."""
        wanted = needs & TEACHER_NEEDS
        if wanted and (teacher is None or not wanted <= teacher.captured):
            frozen = not (torch.is_grad_enabled() and batch.inputs.requires_grad)
            with torch.no_grad() if frozen else torch.enable_grad():
                teacher = self._run(self.teacher.module, batch.inputs, wanted | self.also, self._teacher_bn, self._teacher_taps)
        student = None
        if wanted := needs & STUDENT_NEEDS:
            assert self.student is not None, "the student was asked for before quantization"
            taps = {path: self.student.names.get(path, path) for path in self.teacher.taps}
            student = self._run(self.student.module, batch.inputs, wanted, {}, taps)
        return View(batch, teacher if needs & TEACHER_NEEDS else None, student, self.teacher.task, step)

    def _run(self, module: nn.Module, inputs: Tensor, wanted: frozenset[str] | set[str], norms: Mapping[str, _BatchNorm],
             taps: Mapping[str, str]) -> Trace:  # fmt: skip
        who = "student" if wanted & STUDENT_NEEDS else "teacher"
        stats: dict[str, BnStats] = {}
        features: dict[str, Tensor] = {}
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with ExitStack() as stack:
            if f"{who}.bn" in wanted:
                stack.enter_context(_watching_statistics(norms, stats))
            if f"{who}.features" in wanted:
                stack.enter_context(_watching_features(module, taps, features))
            stack.enter_context(self.precision.autocast())
            output = module(inputs)
        return Trace(_float(output), {k: v.float() for k, v in features.items()}, stats, frozenset(wanted) | {f"{who}.output"})


@contextmanager
def watching_inputs(modules: Mapping[str, nn.Module], watch: Callable[[str, Any, Tensor], None]) -> Iterator[None]:
    """Inside, ``watch(path, module, input)`` is called before each of the modules runs; outside, no hook is left."""

    def hook(path: str) -> Any:
        return lambda module, inputs: watch(path, module, inputs[0])

    handles = [module.register_forward_pre_hook(hook(path)) for path, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watching_outputs(modules: Mapping[str, nn.Module], watch: Callable[[str, Any, Tensor], None]) -> Iterator[None]:
    """Inside, ``watch(path, module, output)`` is called after each of the modules runs; outside, no hook is left."""

    def hook(path: str) -> Any:
        return lambda module, _inputs, output: watch(path, module, output)

    handles = [module.register_forward_hook(hook(path)) for path, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def full_precision(student: Student) -> Iterator[None]:
    """Inside, every quantization point that is a module, of weights and activations, hands on what it is given."""
    modules = [point for point in student.points.values() if isinstance(point, nn.Module)]
    handles = [module.register_forward_hook(lambda _module, inputs, _output: inputs[0]) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def act_modules(student: Student) -> dict[str, nn.Module]:
    """The student's activation points by path, as modules to be watched.

    Raises:
        ZsqError: When one of them is no module.
    """
    if odd := next((path for path, point in student.acts.items() if not isinstance(point, nn.Module)), None):
        raise ZsqError(f"activation point '{odd}' cannot be watched: it is not a module", "the quantizer", "use another --calib")
    return {path: point for path, point in student.acts.items() if isinstance(point, nn.Module)}


def _watching_statistics(norms: Mapping[str, _BatchNorm], into: dict[str, BnStats]) -> AbstractContextManager[None]:
    def watch(path: str, norm: Any, x: Tensor) -> None:
        into[path] = BnStats(*channel_stats(x), norm.running_mean, norm.running_var)

    return watching_inputs(norms, watch)


def _watching_features(module: nn.Module, taps: Mapping[str, str], into: dict[str, Tensor]) -> AbstractContextManager[None]:
    return watching_outputs(
        {path: module.get_submodule(where) for path, where in taps.items()}, lambda path, _module, x: into.__setitem__(path, x)
    )


def _float(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float() if output.is_floating_point() else output
    if isinstance(output, Mapping):
        return {k: _float(v) for k, v in output.items()}
    if isinstance(output, (tuple, list)):
        return type(output)(_float(v) for v in output)
    return output
