"""Turns a network into a frozen teacher: checks its input spec and classes by one forward pass; finds its stages, blocks and head."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsq.errors import FileError, ZsqError, first_line
from zsq.protocols import Task
from zsq.teachers._weights import fingerprint
from zsq.types import InputSpec, Teacher

_SIDECAR = 'it reads {"input": {"shape": [3, 32, 32], "mean": [.5, .5, .5], "std": [.2, .2, .2]}, "classes": 10}'


_SET = (
    "put a sidecar STEM.json beside the weights, give --set teacher.shape=3,32,32, teacher.mean=… and teacher.std=…, "
    "or let the network carry them in a dict pretrained_cfg"
)


_CFG = 'it reads {"input_size": (3, 224, 224), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}; or --set teacher.'


def teacher_from(module: nn.Module, ref: str, spec: Mapping[str, Any], classes: int | None, where: str = "teacher",
                 task: Callable[[int], Task] | None = None, **fields: Any) -> Teacher:  # fmt: skip
    """A frozen teacher around a network: in eval mode and channels_last, checked by one forward pass on random inputs.

    Args:
        module: The network with its weights.
        ref: Its reference.
        spec: ``shape``, ``mean`` and ``std``.
        classes: The declared number, or None to take it from the output.
        where: The source of the spec, for messages.
        task: Makes its task for a number of classes, see ``Context.task``; None means ``classify``.
        fields: Further fields of :class:`zsq.types.Teacher`; they replace the found values.

    Raises:
        FileError: If the spec is incomplete, the network does not run on it, its output does not fit the task, or it has another
            number of classes.
    """
    inputs = _input_spec(spec, where)
    make = task or _classify
    reading = make(classes or 2)
    module = to_channels_last(module.eval().requires_grad_(False))
    noise = torch.randn((2, *inputs.shape), generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
    stages, blocks = _stages(module)
    shape = "x".join(map(str, inputs.shape))
    try:
        output, called = _run(module, noise, {*stages, *blocks})
        logits, wrong = reading.logits(output), reading.wrong(output, noise)
    except ZsqError:
        raise
    except Exception as error:  # a user's network can raise anything
        raise FileError(
            f"the network does not run on {shape} inputs: {first_line(error)}", where, "is it the input shape it was trained with?"
        ) from error
    if not wrong and not all(torch.isfinite(value).all() for value in reading.values(output)):
        wrong = "values that are not finite"
    if wrong:
        raise FileError(f"the network gives {wrong}", where, f"name a network for task '{reading.name}'")
    if classes is not None and logits.shape[1] != classes:
        hint = "correct `classes` in the sidecar or --set teacher.classes, or build the network with as many"
        raise FileError(f"the network outputs {logits.shape[1]} classes, but {classes} were declared", where, hint)
    found = {
        "head": _head(module, logits.shape[1]),
        "taps": tuple(path for path in stages if path in called) or tuple(path for path in blocks if path in called),
        "blocks": tuple(path for path in blocks if path in called),
        "fingerprint": fingerprint(module),
    }
    return Teacher(module, inputs, make(logits.shape[1]), ref=ref, **{**found, **fields})


def to_channels_last(module: nn.Module, device: torch.device | None = None) -> nn.Module:
    """``module`` on ``device``, in channels_last unless it needs contiguous inputs."""
    if _contiguous_inputs in module._forward_pre_hooks.values():
        return module.to(device)
    return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _run(module: nn.Module, inputs: Tensor, paths: set[str]) -> tuple[Any, set[str]]:
    """The network's output, and the subset of ``paths`` that can be tapped.

    A network that fails in channels_last but runs on contiguous tensors, e.g. with ``x.view(len(x), -1)``, gets
    contiguous inputs from then on.
    """
    try:
        with torch.no_grad(), _record_calls(module, paths) as called:
            return module(inputs), called
    except Exception:  # a user's network can raise anything
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)
        module.register_forward_pre_hook(_contiguous_inputs, prepend=True)
    with torch.no_grad(), _record_calls(module, paths) as called:
        return module(inputs), called


def _contiguous_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Makes inputs in channels_last contiguous."""
    x = inputs[0] if inputs else None
    if not isinstance(x, Tensor) or x.dim() != 4 or x.stride()[1:] == (x.shape[2] * x.shape[3], x.shape[3], 1):
        return None
    return (x.clone(memory_format=torch.contiguous_format), *inputs[1:])


def _classify(classes: int) -> Task:
    from zsq._builtin.classify import Classify
    from zsq._builtin.options import ClassifyOptions

    return Classify(ClassifyOptions(classes=classes))


def read_sidecar(path: Path) -> dict[str, Any]:
    """``{"input": {"shape", "mean", "std"}, "classes"}`` from the file next to the weights file; empty if there is none.

    Raises:
        FileError: If it is not JSON, or a field has the wrong type; fields may be missing.
    """
    if not path.is_file():
        return {}
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"the sidecar is not JSON: {first_line(error)}", str(path), _SIDECAR) from None
    spec = sidecar.get("input", {}) if isinstance(sidecar, dict) else None
    if not isinstance(spec, dict):
        raise FileError("the sidecar is not an object with an object 'input'", str(path), _SIDECAR)
    for name in ("shape", "mean", "std"):
        if not _numbers(spec.get(name, [])):
            raise FileError(f"'{name}' in the sidecar is not a list of numbers", str(path), _SIDECAR)
    classes = sidecar.get("classes")
    if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool) or classes < 2):
        raise FileError(f"'classes' in the sidecar is {classes!r}, not a number of classes", str(path), _SIDECAR)
    return dict(sidecar)


def declared(module: nn.Module, keys: Sequence[str], where: str) -> dict[str, Any]:
    """``shape``, ``mean`` and ``std`` that a network declares in a dict ``pretrained_cfg`` or ``default_cfg``, as timm networks do.

    Its ``num_classes`` is ignored: it belongs to the weights that training started from; the output shows the real number.

    Args:
        module: The network.
        keys: Which of ``shape``, ``mean`` and ``std`` to read; a missing one is None.
        where: Where the network came from, for messages.

    Raises:
        FileError: If one of them is not a list of numbers.
    """
    cfgs = [(name, cfg) for name in ("default_cfg", "pretrained_cfg") if isinstance(cfg := getattr(module, name, None), Mapping)]
    found: dict[str, Any] = {}
    for key in keys:
        field = "input_size" if key == "shape" else key
        for name, cfg in cfgs:
            value = cfg.get(field)
            if value is not None and not _numbers(value):
                raise FileError(f"'{field}' in the network's {name} is {value!r}, not a list of numbers", where, f"{_CFG}{key}=…")
            found[key] = value or found.get(key)
    return found


def _input_spec(spec: Mapping[str, Any], where: str) -> InputSpec:
    shape, mean, std = (tuple(spec.get(key) or ()) for key in ("shape", "mean", "std"))
    if missing := [key for key, value in (("shape", shape), ("mean", mean), ("std", std)) if not value]:
        raise FileError(f"the teacher's input spec is incomplete: no {', no '.join(missing)}", where, _SET)
    if len(shape) != 3 or not all(isinstance(n, int) and n >= 1 for n in shape):
        raise FileError(f"the input shape is {shape}, not (channels, height, width)", where, _SET)
    if len(mean) != shape[0] or len(std) != shape[0]:
        raise FileError(
            f"{len(mean)} means and {len(std)} standard deviations for {shape[0]} channels", where, "give one of each per channel"
        )
    if not all(math.isfinite(v) for v in (*mean, *std)) or min(std) <= 0:
        raise FileError(f"mean {mean} or std {std} is not finite, or std is not positive", where, "give them for pixels in [0, 1]")
    return InputSpec(shape, tuple(map(float, mean)), tuple(map(float, std)))


def _numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)


def _stages(module: nn.Module) -> tuple[list[str], list[str]]:
    """Paths of the stages and of their blocks. Both are compound children; a last one that only classifies is left out."""
    stages = _compound(module)
    if len(stages) > 1 and _is_list(last := list(stages.values())[-1]) and any(isinstance(m, nn.Linear) for m in last.children()):
        del stages[list(stages)[-1]]
    while len(stages) == 1 and (inner := _inside(stages) or _listed(*next(iter(stages.items())))):
        stages = inner
    blocks = {path: block for name, stage in stages.items() for path, block in (_inside({name: stage}) or {name: stage}).items()}
    return list(stages), list(blocks)


def _compound(owner: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Children that contain layers, by path: at least one of their own children has parameters."""
    return {f"{prefix}{n}": c for n, c in owner.named_children() if any(True for inner in c.children() for _ in inner.parameters())}


def _inside(stages: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The compound children of plain lists of modules."""
    return {path: m for name, stage in stages.items() if _is_list(stage) for path, m in _compound(stage, f"{name}.").items()}


def _listed(name: str, stage: nn.Module) -> dict[str, nn.Module]:
    """The compound children of the outermost list in a module that holds several: the parts of a network inside a wrapper."""
    lists = sorted(((path, m) for path, m in stage.named_modules() if path and _is_list(m)), key=lambda item: item[0].count("."))
    return next((found for path, m in lists if len(found := _compound(m, f"{name}.{path}.")) > 1), {})


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, (nn.Sequential, nn.ModuleList))


def _head(module: nn.Module, classes: int) -> str:
    """Path of the last linear layer or 1x1 convolution with one output per class, or an empty string."""
    heads = [
        path
        for path, m in module.named_modules()
        if (isinstance(m, nn.Linear) and m.out_features == classes)
        or (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.out_channels == classes)
    ]
    return heads[-1] if heads else ""


@contextmanager
def _record_calls(module: nn.Module, paths: set[str]) -> Iterator[set[str]]:
    """Yields the set of ``paths`` where the module was called and returned a tensor: only these can be tapped."""
    called: set[str] = set()

    def hook(path: str) -> Any:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                called.add(path)

        return note

    handles = [module.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()
