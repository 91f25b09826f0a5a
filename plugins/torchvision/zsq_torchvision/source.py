"""Networks of torchvision by name, with published weights or the user's."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from zsq.errors import FileError, ZsqError, library, nearest
from zsq.teachers import load_into, read_weights, teacher_from
from zsq.types import Context, Teacher
from zsq_torchvision import TorchvisionOptions, detection

_EXTRA = "zsq-torchvision[torchvision]"
#: Networks with further classifiers that only training uses, and a conversion of inputs that their published weights expect.
_AUXILIARY = ("googlenet", "inception_v3")
_TRAINING = ("AuxLogits.", "aux1.", "aux2.", "aux_classifier.")
#: Of torchvision's further families, the packages that are known here, with what their networks are built with.
_FAMILIES: Mapping[str, Mapping[str, Any]] = {"segmentation": {"weights_backbone": None, "aux_loss": False}}


class Torchvision:
    """Loads ``torchvision:NAME[@WEIGHTS]``; ``WEIGHTS`` is one of the names in torchvision's table, by default the best."""

    def __init__(self, options: TorchvisionOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def load(self, ref: str) -> Teacher:
        """The network with its published weights, from torch's own cache or its server, or those of ``--weights``.

        Raises:
            ZsqError: If torchvision is missing, or has no such network or weights.
            FileError: If the weights is not available, or do not fit.
        """
        name, _, version = ref.partition("@")
        where, o = f"teacher torchvision:{ref}", self.options
        models = library("torchvision", _EXTRA, where).models
        chosen = _weights(models, name, version, where)
        labels = tuple(chosen.meta["categories"])
        file = Path(o.weights) if o.weights else _download(chosen.url, where)
        published = file.name == _name(chosen.url)
        classes = (o.classes if o.weights else None) or len(labels)
        family = next((f for f in _FAMILIES if name in models.list_models(module=getattr(models, f))), "")
        spec = o.over(detection.spec(models, name) if name in detection.SIZES else _spec(chosen))
        if name in detection.SIZES:
            module: nn.Module = detection.network(models, name, classes, published, tuple(spec["shape"][1:]), where)
        else:
            module = _network(models, name, classes, published, _FAMILIES.get(family, {}))
        tensors = read_weights(file, self.ctx.trust_code)
        if name in _AUXILIARY or family:
            tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(_TRAINING)}
        load_into(module, tensors, str(file))
        full = f"torchvision:{name}@{chosen.name}" if published else f"torchvision:{ref}"
        fields: dict[str, Any] = {"labels": labels, "license": chosen.meta.get("license", "")} if published else {}
        if family:
            fields["taps"] = _taps(module)
        elif name in detection.SIZES:
            fields |= {"taps": detection.TAPS[name], "head": ""}
        return teacher_from(module, full, spec, classes, where=str(file), task=self.ctx.task, **fields)


def _weights(models: Any, name: str, version: str, where: str) -> Any:
    """An entry of torchvision's table of weights: url, preprocessing and labels."""
    known = [n for package in (models, *(getattr(models, f) for f in _FAMILIES)) for n in models.list_models(module=package)]
    known += detection.SIZES
    if name not in known:
        raise ZsqError(
            f"torchvision has no network '{name}' that can be loaded here",
            where,
            nearest(name, known) or "torchvision.models.list_models() names them",
        )
    table = models.get_model_weights(name)
    if version and version not in table.__members__:
        have = ", ".join(table.__members__)
        raise ZsqError(f"'{name}' has no weights '{version}'", where, nearest(version, table.__members__) or f"it has: {have}")
    return table[version] if version else table.DEFAULT


def _network(models: Any, name: str, classes: int, published: bool, family: Mapping[str, Any]) -> nn.Module:
    more = {"aux_logits": False, "transform_input": published, "init_weights": False} if name in _AUXILIARY else dict(family)
    with torch.random.fork_rng(devices=[]):  # initial values are drawn, and overwritten next
        module: nn.Module = models.get_model(name, weights=None, num_classes=classes, **more)
    return module


def _taps(module: nn.Module) -> tuple[str, ...]:
    """Where a backbone's features are taken: its last block of every width and resolution, as a small image goes through."""
    last: dict[tuple[int, ...], str] = {}

    def note(name: str) -> Any:
        return lambda _module, _inputs, output: last.__setitem__(tuple(output.shape[1:]), f"backbone.{name}")

    backbone: Any = module.eval().backbone
    blocks = [(name, child) for name, child in backbone.named_children() if any(True for c in child.children() for _ in c.parameters())]
    hooks = [block.register_forward_hook(note(name)) for name, block in blocks]
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, 3, 64, 64))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(last.values())


def _spec(chosen: Any) -> dict[str, Any]:
    preset = chosen.transforms()
    size = list(getattr(preset, "crop_size", None) or preset.resize_size)
    return {"shape": (len(preset.mean), *(size * 2 if len(size) == 1 else size)), "mean": preset.mean, "std": preset.std}


def _name(url: str) -> str:
    return Path(urlsplit(url).path).name


def _download(url: str, where: str) -> Path:
    """The file in torch's cache; downloaded first if need be, and then checked against the hash in its name.

    Raises:
        FileError: If that fails.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / _name(url)
    if file.is_file():
        return file
    sign = re.search(r"-([a-f0-9]{8,})\.", file.name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), sign[1] if sign else None, progress=sys.stderr.isatty())
    except RuntimeError as error:
        raise FileError(f"{file.name} arrived damaged: its hash is another", where, "try again") from error
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise FileError(f"cannot download {file.name}: {reason}", where, f"try again, or put it there: {file}") from error
    return file
