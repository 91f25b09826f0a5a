"""Runs teacher and student, as far as the needs require, and captures only what they name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zsq._component import STUDENT_NEEDS, TEACHER_NEEDS
from zsq.training._statistics import batch_norms, channel_stats
from zsq.training._watching import watching_inputs, watching_outputs
from zsq.types import Batch, BnStats, Precision, Student, Teacher, Trace, View


class Probe:
    """Runs teacher and student on a batch.

    Args:
        teacher: Frozen and in eval mode.
        precision: Arithmetic of the forward passes; outputs and statistics are float32.
        student: None before quantization.
        also: Teacher needs to capture in every teacher forward pass, so that one pass serves generator and student.
    """

    def __init__(self, teacher: Teacher, precision: Precision, student: Student | None = None, also: frozenset[str] = frozenset()) -> None:
        self.teacher, self.precision, self.student, self.also = teacher, precision, student, also & TEACHER_NEEDS
        self._teacher_bn = batch_norms(teacher.module)
        self._teacher_taps = {path: path for path in teacher.taps}

    def __call__(self, batch: Batch, needs: frozenset[str] | set[str], teacher: Trace | None = None, step: int = 0) -> View:
        """A view of ``batch``. ``teacher`` is an earlier trace; it is used if it has everything that ``needs`` name."""
        wanted = needs & TEACHER_NEEDS
        if wanted and (teacher is None or not wanted <= teacher.captured):
            frozen = not (torch.is_grad_enabled() and batch.inputs.requires_grad)
            with torch.no_grad() if frozen else torch.enable_grad():
                teacher = self._run(self.teacher.module, batch.inputs, wanted | self.also, self._teacher_bn, self._teacher_taps)
        student = None
        if wanted := needs & STUDENT_NEEDS:
            assert self.student is not None, "there is no student before quantization"
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
