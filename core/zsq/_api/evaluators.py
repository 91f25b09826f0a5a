"""A caller's own measure in the place of an evaluator: a function of a network, or real images with their classes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zsq.errors import OptionError
from zsq.types import Context


class Measure:
    """Calls ``function(network)``, or ``function(network, ctx)`` where it takes two arguments, on student and teacher.

    What it gives is a number, which is called as the function is, or a mapping of names to numbers.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name

    def evaluate(self, module: nn.Module, ctx: Context) -> Mapping[str, float]:
        found = self.function(module, ctx) if _takes(self.function) > 1 else self.function(module)
        values = found if isinstance(found, Mapping) else {self.name: found}
        metrics: dict[str, float] = {}
        for name, value in values.items():
            try:
                metrics[str(name)] = number = float(value)
            except (TypeError, ValueError):
                what = f"evaluate= gives a {type(value).__name__} as '{name}', not a number"
                raise OptionError(what, self.name, "return a number, or a dict of names to numbers") from None
            if not math.isfinite(number):
                raise OptionError(f"evaluate= gives {number} as '{name}'", self.name, "a metric is a finite number")
        return metrics


class Labelled:
    """Top-1 accuracy, in percent, on batches of (inputs, classes): what a DataLoader of a classification data set gives.

    Inputs are taken as the network takes them; they are not normalised here.
    """

    needs = frozenset({"classes"})

    def __init__(self, batches: Iterable[Any]) -> None:
        if iter(batches) is batches:
            what = "evaluate= can be gone through only once, but student and teacher are both evaluated on it"
            raise OptionError(what, "zsq.quantize", "give a DataLoader, or a list of batches")
        self.batches = batches
        self.details: dict[str, Any] = {}

    def evaluate(self, module: nn.Module, ctx: Context) -> dict[str, float]:
        """``top1``, and ``images``, the number evaluated."""
        answers: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in self.batches:
            if not (isinstance(batch, (tuple, list)) and len(batch) >= 2 and all(isinstance(part, Tensor) for part in batch[:2])):
                what = f"a batch of evaluate= is a {type(batch).__name__}, not a pair of tensors (inputs, classes)"
                raise OptionError(what, "zsq.quantize", "give a function of the network instead: evaluate=lambda network: ...")
            inputs = batch[0].to(ctx.device, torch.float32)
            with torch.no_grad():
                answers.append(ctx.teacher.task.logits(module(inputs)).argmax(1).cpu())
            labels.append(batch[1].reshape(-1).long().cpu())
        if not answers or sum(map(len, answers)) != sum(map(len, labels)):
            raise OptionError("evaluate= holds no images, or not one class for each", "zsq.quantize", "give batches of (inputs, classes)")
        given, right = torch.cat(answers), torch.cat(labels)
        self.details = {"answers": given, "labels": right}
        return {"top1": 100 * float((given == right).float().mean()), "images": len(given)}


def _takes(function: Callable[..., Any]) -> int:
    """How many arguments a function asks for."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
