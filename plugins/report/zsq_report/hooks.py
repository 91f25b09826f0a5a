"""Watching modules while a network runs, and finding them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


def module_at(root: nn.Module, path: str) -> nn.Module | None:
    """The module at ``path``, or None."""
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


@contextmanager
def hooked(modules: Mapping[str, nn.Module], watch: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Inside, ``watch(path, inputs, output)`` is called after each of the modules ran; all hooks are removed on exit."""

    def hook(path: str) -> Any:
        return lambda _module, inputs, output: watch(path, inputs, output)

    with ExitStack() as stack:
        for path, module in modules.items():
            stack.callback(module.register_forward_hook(hook(path)).remove)
        yield
