"""Components made of what a caller passes to ``zsq.quantize``: a network, images, a function that measures, a function that listens."""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from zsq._builtin.options import MemoryOptions
from zsq.errors import FileError, OptionError, ZsqError, first_line
from zsq.options import Options, opt
from zsq.teachers import declared, fingerprint, teacher_from
from zsq.types import Batch, Context, Teacher

#: Bytes of images that are read at most: an iterable may have no end.
_MOST = 2**30
_WRITE = (
    "write:  zsq.quantize(model, bits=8, input_shape=(3, 224, 224),  # channels, height, width\n"
    "                     mean=(0.485, 0.456, 0.406),               # of the pixels in [0, 1], per channel;\n"
    "                     std=(0.229, 0.224, 0.225))                # mean=0, std=1 if nothing is normalised"
)


# -- teacher -----------------------------------------------------------------------------------------------------------


class Network:
    """A copy of the caller's network, on the CPU in float32, with its input spec.

    Args:
        module: The network. Nothing of it changes: its modes, gradients, hooks and device stay as they are.
        inputs: Its ``shape``, ``mean`` and ``std``; values that are None come from the dict ``pretrained_cfg`` of the network.
        task: The name of its task, None for the default.
        classes: The number of its classes, None to take it from its output.

    Raises:
        ZsqError: If it cannot be copied, or has parameters without values.
        FileError: If its input spec is not known.
    """

    def __init__(self, module: nn.Module, inputs: Mapping[str, Any], task: str | None = None, classes: int | None = None) -> None:
        while isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        self.name = type(module).__name__
        where = f"memory:{self.name}"
        if lazy := next((name for name, p in module.named_parameters() if is_lazy(p)), ""):
            hint = "run the network once on an example, so that lazy modules get their sizes"
            raise ZsqError(f"'{lazy}' has no values yet", where, hint)
        try:
            self.module = copy.deepcopy(module).cpu()
        except Exception as error:  # an attribute of the caller's module may raise anything
            hint = "zsq works on a copy; remove attributes that cannot be copied (open files, locks, tensors in a graph)"
            raise ZsqError(f"the network cannot be copied: {first_line(error)}", where, hint) from error
        types = {p.dtype for p in (*self.module.parameters(), *self.module.buffers()) if p.is_floating_point()} - {torch.float32}
        self.converted = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
        if types:
            self.module.float()
        given = {key: inputs.get(key) for key in ("shape", "mean", "std")}
        missing = [key for key, value in given.items() if value is None]
        self.spec = {**given, **declared(self.module, missing, where)}
        channels = len(self.spec["mean"] or ()) if isinstance(self.spec["mean"], Sequence) else 0
        if self.spec["shape"] is not None:
            channels = int(self.spec["shape"][0])
        for key in ("mean", "std"):  # one number is for all channels
            if isinstance(value := self.spec[key], (int, float)):
                self.spec[key] = (float(value),) * channels
        if missing := [key for key, value in self.spec.items() if value is None]:
            raise FileError(f"the network's inputs are not known: no {', no '.join(missing)}", where, _WRITE)
        self.task, self.classes = task, classes

    def entry(self) -> dict[str, Any]:
        """The section ``teacher`` of a recipe."""
        spec = {key: list(value) for key, value in self.spec.items()}
        more = {"task": self.task, "classes": self.classes}
        fields = {key: value for key, value in more.items() if value is not None}
        return {"ref": f"memory:{self.name}", **spec, **fields, "fingerprint": fingerprint(self.module)}


class NetworkSource:
    """The teacher source ``memory`` while the network is in memory."""

    def __init__(self, network: Network, options: MemoryOptions, ctx: Context) -> None:
        self.network, self.options, self.ctx = network, options, ctx

    def load(self, ref: str) -> Teacher:
        """The copy as a teacher.

        Raises:
            FileError: If it does not run on its input spec, or is not the network of the recipe.
        """
        network, options, where = self.network, self.options, f"memory:{ref}"
        if options.fingerprint and options.fingerprint != fingerprint(network.module):
            what = f"this {network.name} has other weights than the network of the recipe"
            raise FileError(what, where, "pass the same network, or leave the recipe's teacher out")
        if network.converted:
            self.ctx.log(f"the teacher runs in float32; your network has {network.converted}")
        teacher = teacher_from(network.module, where, options.over(network.spec), options.classes, where, self.ctx.task)
        return replace(teacher, ref=where)


# -- images ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OwnImagesOptions(Options):
    count: int = opt(0, "Number of images.", ge=0)
    sha256: str = opt("", "Checksum of the images: a run is resumed with the same images only.")


class OwnImages:
    """A synthesizer that returns the caller's images in random order; none comes twice before all came once.

    Args:
        options: With the checksum of the recipe's images.
        ctx: Of the run.
        images: (N, C, H, W), normalised as the network takes them.
        targets: Their classes (N,), or None.
    """

    def __init__(self, options: OwnImagesOptions, ctx: Context, images: Tensor, targets: Tensor | None) -> None:
        if options.sha256 and options.sha256 != checksum(images):
            raise OptionError("these are other images than those the run began with", "synth=", "pass the same ones, in the same order")
        shape = tuple(ctx.teacher.inputs.shape)
        if tuple(images.shape[1:]) != shape:
            what = f"the images are {tuple(images.shape[1:])}, but the network takes {shape}"
            raise OptionError(what, "synth=", "pass them as the network takes them: channels, height, width, normalised")
        self.ctx = ctx
        self.pool = images.to(ctx.device).contiguous(memory_format=torch.channels_last)
        self.targets = None if targets is None else targets.to(ctx.device)
        self._left = torch.empty(0, dtype=torch.int64)

    def sample(self, n: int) -> Batch:
        """The next ``n`` images."""
        while len(self._left) < n:
            order = torch.randperm(len(self.pool), generator=self.ctx.rng, device=self.ctx.rng.device).cpu()
            self._left = torch.cat([self._left, order])
        taken, self._left = self._left[:n].to(self.pool.device), self._left[n:]
        images = self.pool[taken].contiguous(memory_format=torch.channels_last)
        return Batch(images, None if self.targets is None else self.targets[taken])

    def state_dict(self) -> dict[str, Any]:
        return {"left": self._left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._left = state["left"]


def read_images(given: Any) -> tuple[Tensor, Tensor | None, bool]:
    """Images (N, C, H, W) in float32, their classes if there are some, and whether there were more images than are read.

    Args:
        given: A tensor; a pair of images and classes; or batches of either, for example a DataLoader.

    Raises:
        OptionError: If there are none, or they are of another kind.
    """
    if isinstance(given, Tensor) or (isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, Tensor) for part in given)):
        given = [given]
    if not isinstance(given, Iterable):
        hint = "pass a name, (name, options), a tensor, a DataLoader, or an object with sample(n)"
        raise OptionError(f"synth= is a {type(given).__name__}", "zsq.quantize", hint)
    images: list[Tensor] = []
    targets: list[Tensor] = []
    size = 0
    for item in given:
        batch, label = (item[0], item[1] if len(item) > 1 else None) if isinstance(item, (tuple, list)) else (item, None)
        if not isinstance(batch, Tensor):
            hint = "pass tensors (N, C, H, W), or pairs of images, classes"
            raise OptionError(f"a batch is a {type(batch).__name__}, not a tensor", "synth=", hint)
        batch = batch.detach().cpu()
        batch = batch if batch.dim() == 4 else batch[None]
        if batch.dim() != 4 or not batch.is_floating_point():
            what = f"images are {str(batch.dtype).removeprefix('torch.')} of shape {tuple(batch.shape)}"
            raise OptionError(what, "synth=", "pass float tensors (N, C, H, W), normalised as your network takes them")
        images.append(batch.float())
        if isinstance(label, Tensor) and label.dtype in (torch.int64, torch.int32, torch.uint8) and label.numel() == len(batch):
            targets.append(label.detach().cpu().reshape(-1).long())
        size += batch.numel() * 4
        if size >= _MOST:
            break
    if not images:
        raise OptionError("there are no images", "synth=", "pass a tensor (N, C, H, W) or a DataLoader with at least one image")
    found = torch.cat(images)
    if not bool(found.isfinite().all()):
        raise OptionError("images contain NaN or Inf", "synth=", "check how they are loaded and normalised")
    return found, torch.cat(targets) if sum(map(len, targets)) == len(found) else None, size >= _MOST


def checksum(images: Tensor) -> str:
    """SHA-256 of images (N, C, H, W)."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


# -- evaluators and logs -----------------------------------------------------------------------------------------------


class Measure:
    """An evaluator that calls ``function(network)``, or ``function(network, ctx)`` if it has two arguments, on student and teacher.

    The function returns a number, which gets the name of the function, or a mapping of names to numbers.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name

    def evaluate(self, module: nn.Module, ctx: Context) -> Mapping[str, float]:
        found = self.function(module, ctx) if _arguments(self.function) > 1 else self.function(module)
        metrics: dict[str, float] = {}
        for name, value in (found if isinstance(found, Mapping) else {self.name: found}).items():
            try:
                metrics[str(name)] = number = float(value)
            except (TypeError, ValueError):
                what = f"evaluate= returns a {type(value).__name__} as '{name}', not a number"
                raise OptionError(what, self.name, "return a number, or a dict of names to numbers") from None
            if not math.isfinite(number):
                raise OptionError(f"evaluate= returns {number} as '{name}'", self.name, "a metric must be a finite number")
        return metrics


class Labelled:
    """An evaluator for batches of (inputs, classes), such as a DataLoader of a classification data set: top-1 accuracy, in percent.

    Inputs must be normalised as the network takes them.
    """

    needs = frozenset({"classes"})

    def __init__(self, batches: Iterable[Any]) -> None:
        if iter(batches) is batches:
            what = "evaluate= can be read only once, but student and teacher are both evaluated on it"
            raise OptionError(what, "zsq.quantize", "pass a DataLoader, or a list of batches")
        self.batches = batches
        self.details: dict[str, Any] = {}

    def evaluate(self, module: nn.Module, ctx: Context) -> dict[str, float]:
        """``top1``, and ``images``, the number of images."""
        answers: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in self.batches:
            if not (isinstance(batch, (tuple, list)) and len(batch) >= 2 and all(isinstance(part, Tensor) for part in batch[:2])):
                what = f"a batch of evaluate= is a {type(batch).__name__}, not a pair of tensors (inputs, classes)"
                raise OptionError(what, "zsq.quantize", "pass a function of the network instead: evaluate=lambda network: ...")
            with torch.no_grad():
                answers.append(ctx.teacher.task.logits(module(batch[0].to(ctx.device, torch.float32))).argmax(1).cpu())
            labels.append(batch[1].reshape(-1).long().cpu())
        if not answers or sum(map(len, answers)) != sum(map(len, labels)):
            what = "evaluate= has no images, or not one class for each"
            raise OptionError(what, "zsq.quantize", "pass batches of (inputs, classes)")
        given, right = torch.cat(answers), torch.cat(labels)
        self.details = {"answers": given, "labels": right}
        return {"top1": 100 * float((given == right).float().mean()), "images": len(given)}


class Listener:
    """A log that calls a function with every event."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self.function = function

    def __call__(self, event: Any) -> None:
        self.function(event)

    def close(self) -> None:
        """Nothing to close."""


def _arguments(function: Callable[..., Any]) -> int:
    """How many arguments a function requires."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
