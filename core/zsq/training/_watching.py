"""Temporary hooks: watch inputs and outputs of modules, switch quantization points off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zsq.errors import ZsqError
from zsq.types import Student


def watching_inputs(modules: Mapping[str, nn.Module], watch: Callable[[str, Any, Tensor], None]) -> AbstractContextManager[None]:
    """Inside, ``watch(path, module, input)`` is called before each module runs. All hooks are removed on exit."""
    return _hooked(modules, lambda path, m: m.register_forward_pre_hook(lambda module, inputs: watch(path, module, inputs[0])))


def watching_outputs(modules: Mapping[str, nn.Module], watch: Callable[[str, Any, Tensor], None]) -> AbstractContextManager[None]:
    """Inside, ``watch(path, module, output)`` is called after each module runs. All hooks are removed on exit."""
    return _hooked(modules, lambda path, m: m.register_forward_hook(lambda module, _inputs, output: watch(path, module, output)))


def full_precision(student: Student) -> AbstractContextManager[None]:
    """Inside, every quantization point that is a module returns its input unchanged."""
    points = {path: point for path, point in student.points.items() if isinstance(point, nn.Module)}
    return _hooked(points, lambda _path, m: m.register_forward_hook(lambda _module, inputs, _output: inputs[0]))


@contextmanager
def _hooked(modules: Mapping[str, nn.Module], register: Callable[[str, nn.Module], RemovableHandle]) -> Iterator[None]:
    handles = [register(path, module) for path, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def act_modules(student: Student) -> dict[str, nn.Module]:
    """The student's activation points by path, as modules for hooks.

    Raises:
        ZsqError: If one of them is not a module.
    """
    if odd := next((path for path, point in student.acts.items() if not isinstance(point, nn.Module)), None):
        raise ZsqError(f"activation point '{odd}' cannot be watched: it is not a module", "the quantizer", "use another --calib")
    return {path: point for path, point in student.acts.items() if isinstance(point, nn.Module)}
