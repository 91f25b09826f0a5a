"""Teacher sources ``py``, a local function that makes a network, and ``memory`` without its network."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zsq._builtin.options import MemoryOptions, PyOptions
from zsq.errors import FileError, ZsqError, first_line, nearest
from zsq.teachers import declared, load_into, read_sidecar, read_weights, teacher_from
from zsq.types import Context, Teacher


class Py:
    """``py:package.module:callable`` or ``py:path/to/file.py:callable``. The user names it, so it is imported."""

    def __init__(self, options: PyOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def load(self, ref: str) -> Teacher:
        """The teacher that the function makes, with weights if there are some.

        Raises:
            ZsqError: If the function is missing or fails, or there is no input spec.
            FileError: If weights or sidecar are missing, damaged or do not fit, or the network declares values that are not numbers.
        """
        o, where = self.options, f"teacher py:{ref}"
        weights = Path(o.weights) if o.weights else None
        tensors = read_weights(weights, self.ctx.trust_code) if weights else {}
        sidecar = read_sidecar(weights.with_suffix(".json")) if weights else {}
        classes = o.classes or sidecar.get("classes")
        module = build(ref, where, classes)
        if weights:
            load_into(module, tensors, str(weights))
        own = {"shape": o.shape, "mean": o.mean, "std": o.std}
        spec = {key: value or sidecar.get("input", {}).get(key) for key, value in own.items()}
        spec |= declared(module, [key for key, value in spec.items() if not value], where)
        return teacher_from(module, f"py:{ref}", spec, classes, where=where, task=self.ctx.task)


class Memory:
    """``memory:CLASS`` without the network: it was in the memory of another process."""

    def __init__(self, options: MemoryOptions, ctx: Context) -> None:
        pass

    def load(self, ref: str) -> Teacher:
        """Raise an error that explains how to pass the network again.

        Raises:
            ZsqError: Always.
        """
        what = f"the teacher was a network in memory (memory:{ref}), which no file holds"
        raise ZsqError(what, f"teacher memory:{ref}", "pass it again in Python: zsq.quantize(network, ...), or teacher= of the call")


def build(ref: str, where: str, classes: int | None) -> nn.Module:
    """The network that ``module:callable`` or ``file.py:callable`` makes, always with the same random numbers.

    The callable gets ``classes`` (or ``num_classes``) if it has this argument and the number is known, otherwise no argument.

    Raises:
        ZsqError: If the callable is missing, fails, or returns something else.
    """
    place, _, name = ref.rpartition(":")
    if not place or not name:
        raise ZsqError("the reference names no callable", where, "write py:package.module:callable or py:path/to/file.py:callable")
    with torch.random.fork_rng(devices=[]), _importing_from(Path(place).parent if place.endswith(".py") else Path()):
        torch.manual_seed(0)
        factory = _find(place, name, where)
        if isinstance(factory, nn.Module):
            return copy.deepcopy(factory)
        try:
            module = factory(**_accepted(factory, classes))
        except ZsqError:
            raise
        except (Exception, SystemExit) as error:
            raise ZsqError(
                f"'{name}' failed: {type(error).__name__}: {first_line(error)}",
                where,
                "it must work without arguments; --debug shows it all",
            ) from error
    if not isinstance(module, nn.Module):
        raise ZsqError(
            f"'{name}' returns a {type(module).__name__}, not a network", where, "name a callable that returns a torch.nn.Module"
        )
    return module


def _find(place: str, name: str, where: str) -> Callable[..., Any]:
    """The attribute ``name`` of a module or file."""
    try:
        module = _import_file(Path(place), where) if place.endswith(".py") else importlib.import_module(place)
    except ZsqError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{place}.".startswith(f"{error.name}."):
            raise ZsqError(
                f"there is no module '{error.name}'", where, "install it, or name its file: py:path/to/file.py:callable"
            ) from None
        raise ZsqError(f"importing '{place}' failed: {type(error).__name__}: {first_line(error)}", where, "--debug shows it all") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        what = f"'{place}' has no callable '{name}'" if factory is None else f"'{name}' in '{place}' is not callable"
        raise ZsqError(what, where, nearest(name, known) or f"it has: {', '.join(known[:8]) or 'none'}")
    return factory  # type: ignore[no-any-return]


def _import_file(path: Path, where: str) -> Any:
    if not path.is_file():
        names = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise FileError(f"there is no file '{path}'", where, nearest(path.name, names) or "paths are relative to the current directory")
    spec = importlib.util.spec_from_file_location(f"zsq_local_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look up their module there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Inside, modules in ``folder`` can be imported, as from a script in this folder."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _accepted(factory: Callable[..., Any], classes: int | None) -> dict[str, int]:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    return {name: classes for name in ("classes", "num_classes") if name in parameters and classes is not None}
