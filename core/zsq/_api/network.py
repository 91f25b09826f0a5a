"""A network that somebody holds: copied, so that theirs stays as it is, with what is known of its inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from zsq._builtin.options import MemoryOptions
from zsq._recipe import Entry
from zsq.errors import FileError, ZsqError, first_line
from zsq.protocols import Task
from zsq.teachers import announced, fingerprint, teacher_from
from zsq.types import InputSpec, Say, Teacher

_WRITE = (
    "write:  zsq.quantize(model, bits=8, input_shape=(3, 224, 224),  # channels, height, width\n"
    "                     mean=(0.485, 0.456, 0.406),               # of the pixels in [0, 1], per channel;\n"
    "                     std=(0.229, 0.224, 0.225))                # mean=0, std=1 where nothing is normalised"
)


class Network:
    """A copy of somebody's network, on the CPU in float32, and how it is called in a recipe.

    Args:
        module: The network. It is copied: nothing of it changes, and its modes, gradients, hooks and device stay as they are.
        inputs: What is known of its inputs; what is None there comes from the dict ``pretrained_cfg`` of the network.
        task: The name of its task, None for the usual one.
        classes: How many classes it tells apart, None to go by its output.

    Raises:
        ZsqError: When it cannot be copied, or has parameters without values.
        FileError: When its input spec is not known.
    """

    def __init__(self, module: nn.Module, inputs: Mapping[str, Any], task: str | None = None, classes: int | None = None) -> None:
        while isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        self.name = type(module).__name__
        where = f"memory:{self.name}"
        if lazy := next((name for name, p in module.named_parameters() if is_lazy(p)), ""):
            raise ZsqError(
                f"'{lazy}' has no values yet", where, "run the network once on an example, so that lazy modules know their sizes"
            )
        try:
            self.module = copy.deepcopy(module).cpu()
        except Exception as error:  # whatever an attribute of somebody's module raises
            hint = "zsq works on a copy; remove attributes that cannot be copied (open files, locks, tensors in a graph)"
            raise ZsqError(f"the network cannot be copied: {first_line(error)}", where, hint) from error
        types = {p.dtype for p in (*self.module.parameters(), *self.module.buffers()) if p.is_floating_point()} - {torch.float32}
        self.converted = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
        if types:
            self.module.float()
        given = {key: inputs.get(key) for key in ("shape", "mean", "std")}
        missing = [key for key, value in given.items() if value is None]
        self.spec = {**given, **announced(self.module, missing, where)}
        channels = len(self.spec["mean"] or ()) if isinstance(self.spec["mean"], Sequence) else 0
        if self.spec["shape"] is not None:
            channels = int(self.spec["shape"][0])
        for key in ("mean", "std"):  # one number stands for all channels
            if isinstance(value := self.spec[key], (int, float)):
                self.spec[key] = (float(value),) * channels
        if missing := [key for key, value in self.spec.items() if value is None]:
            raise FileError(f"the network's inputs are not known: no {', no '.join(missing)}", where, _WRITE)
        self.task, self.classes = task, classes

    def entry(self) -> Entry:
        """The section ``teacher`` of a recipe."""
        spec = {key: list(value) for key, value in self.spec.items()}
        more = {"task": self.task, "classes": self.classes}
        fields = {key: value for key, value in more.items() if value is not None}
        return {"ref": f"memory:{self.name}", **spec, **fields, "fingerprint": fingerprint(self.module)}

    def teacher(self, ref: str, options: MemoryOptions, task: Callable[[int], Task] | None, say: Say) -> Teacher:
        """The copy as a teacher, once; see :func:`zsq.teachers.teacher_from`."""
        where = f"memory:{ref}"
        if options.fingerprint and options.fingerprint != fingerprint(self.module):
            what = f"this {self.name} has other weights than the network that the recipe was made with"
            raise FileError(what, where, "give the same network, or leave the recipe's teacher out")
        if self.converted:
            say(f"the teacher is calculated in float32; the network given holds {self.converted}")
        spec = options.over(self.spec)
        teacher = teacher_from(self.module, where, spec, options.classes, where, task)
        return replace(teacher, ref=where)


def spec_of(inputs: InputSpec | None, shape: Any, mean: Any, std: Any) -> dict[str, Any]:
    """``shape``, ``mean`` and ``std`` from an input spec and the arguments, which win."""
    whole = {} if inputs is None else {"shape": inputs.shape, "mean": inputs.mean, "std": inputs.std}
    given = {"shape": shape, "mean": mean, "std": std}
    return whole | {key: value for key, value in given.items() if value is not None}
