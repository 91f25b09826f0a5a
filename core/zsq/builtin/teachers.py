"""Teacher source ``py``: a local factory that the user names, with its weights, and its input spec from a sidecar or options."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zsq.builtin.classify import Classify
from zsq.builtin.options import ClassifyOptions, PyOptions
from zsq.builtin.weights import fingerprint, load_into, read_weights
from zsq.errors import FileError, ZsqError, nearest
from zsq.types import Context, InputSpec, Teacher


class Py:
    """``py:package.module:callable`` or ``py:path/to/file.py:callable``. Importing it is what the user asked for by naming it."""

    def __init__(self, options: PyOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def load(self, ref: str) -> Teacher:
        """The teacher that the factory builds, with weights where given.

        Raises:
            ZsqError: When the factory cannot be found or fails, or no input spec is to be had.
            FileError: When weights or sidecar are missing, damaged or do not fit.
        """
        o = self.options
        factory = find_factory(ref)
        weights = Path(o.weights) if o.weights else None
        sidecar = read_sidecar(weights.with_suffix(".json")) if weights else {}
        classes = o.classes or sidecar.get("classes")
        module = build(factory, f"py:{ref}", classes)
        if weights:
            load_into(module, read_weights(weights, self.ctx.trust_code), str(weights))
        spec = {key: getattr(o, key) or sidecar.get("input", {}).get(key) for key in ("shape", "mean", "std")}
        return teacher_from(module, f"py:{ref}", spec, classes, where=str(weights.with_suffix(".json")) if weights else "teacher")


def teacher_from(module: nn.Module, ref: str, spec: dict[str, Any], classes: int | None, where: str = "teacher", **fields: Any) -> Teacher:
    """A frozen teacher around a network: input spec checked, class count checked against one forward.

    Args:
        module: The network with its weights.
        ref: Its reference.
        spec: ``shape``, ``mean`` and ``std``.
        classes: As claimed, or None to take the network's word.
        where: Where the spec came from, for messages.
        fields: Further fields of :class:`zsq.types.Teacher`.
    """
    if missing := [key for key in ("shape", "mean", "std") if not spec.get(key)]:
        raise ZsqError(f"the teacher's input {' and '.join(missing)} is not known", where,
                       'put {"input": {"shape", "mean", "std"}, "classes"} in STEM.json beside the weights, or give --set teacher.shape=3,32,32 …')  # fmt: skip
    inputs = InputSpec(tuple(spec["shape"]), tuple(spec["mean"]), tuple(spec["std"]))
    if {len(inputs.mean), len(inputs.std)} != {inputs.shape[0]}:
        raise ZsqError(f"mean and std have {len(inputs.mean)} and {len(inputs.std)} values for {inputs.shape[0]} channels", where,
                       "give one value per channel")  # fmt: skip
    module = module.eval().requires_grad_(False)
    task = Classify(ClassifyOptions(classes=classes or 2))
    noise = torch.randn((2, *inputs.shape), generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            logits = task.logits(module(noise))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ZsqError(f"the teacher fails on an input of shape {inputs.shape}: {str(error).strip().splitlines()[0][:120]}", where,
                       "check the input shape") from error  # fmt: skip
    if logits.dim() != 2 or (classes is not None and logits.shape[1] != classes):
        raise FileError(f"the teacher gives an output of shape {tuple(logits.shape[1:])}, but {classes} classes were said", where,
                        "set classes to what the network tells apart")  # fmt: skip
    task = Classify(ClassifyOptions(classes=logits.shape[1]))
    stages = tuple(name for name, child in module.named_children() if isinstance(child, nn.Sequential))
    found = {"head": head_of(module), "taps": stages, "blocks": stages, "fingerprint": fingerprint(module)}
    return Teacher(module, inputs, task, ref=ref, **{**found, **fields})


def head_of(module: nn.Module) -> str:
    """Path of the last linear layer or 1x1 convolution, or an empty string."""
    heads = [path for path, m in module.named_modules() if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))]
    return heads[-1] if heads else ""


def read_sidecar(path: Path) -> dict[str, Any]:
    """``{"input": {"shape", "mean", "std"}, "classes"}`` from the file beside the weights; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        sidecar = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"the sidecar is not JSON: {error}", str(path), "mend it, or give the values with --set teacher.…") from None
    spec = sidecar.get("input", {}) if isinstance(sidecar, dict) else None
    lists = spec.values() if isinstance(spec, dict) else [None]
    if not all(isinstance(v, list) and all(isinstance(x, (int, float)) for x in v) for v in lists):
        raise FileError("the sidecar has no usable 'input'", str(path), 'it reads {"input": {"shape": [3, 32, 32], "mean": […], "std": […]}, "classes": 10}')
    return dict(sidecar)


def find_factory(ref: str) -> Callable[..., nn.Module]:
    """The callable that ``module:callable`` or ``file.py:callable`` names."""
    place, colon, name = ref.rpartition(":")
    if not colon or not place or not name:
        raise ZsqError(f"'py:{ref}' names no callable", "teacher", "write py:package.module:callable or py:path/to/file.py:callable")
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ZsqError:
        raise
    except Exception as error:
        raise ZsqError(f"'{place}' cannot be imported: {type(error).__name__}: {error}", "teacher", "is it installed, and is the path right?") from error
    if not callable(factory := getattr(module, name, None)):
        raise ZsqError(f"'{place}' has no callable '{name}'", "teacher", nearest(name, [n for n in dir(module) if not n.startswith("_")]))
    return factory  # type: ignore[no-any-return]


def build(factory: Callable[..., nn.Module], ref: str, classes: int | None) -> nn.Module:
    """Call the factory, with ``classes`` (or ``num_classes``) where it takes one and the number is known."""
    parameters = inspect.signature(factory).parameters
    given = {name: classes for name in ("classes", "num_classes") if name in parameters and classes is not None}
    try:
        module = factory(**given)
    except Exception as error:
        raise ZsqError(f"the factory fails: {type(error).__name__}: {error}", ref, "it is called without arguments (or with classes)") from error
    if not isinstance(module, nn.Module):
        raise ZsqError(f"the factory gives a {type(module).__name__}, not a torch module", ref, "name a callable that returns the network")
    return module


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise FileError("the file of the factory does not exist", str(path), "check the path")
    spec = importlib.util.spec_from_file_location(f"zsq_local_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up there
    spec.loader.exec_module(module)
    return module
