"""Networks of timm by name, and repositories that hold one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from zsq_hub import repository as hub

from zsq.errors import FileError, ZsqError, first_line, library, nearest
from zsq.options import InputOptions
from zsq.protocols import Repository
from zsq.teachers import load_into, read_weights, teacher_from
from zsq.types import Context, Teacher
from zsq_timm import TimmOptions

_EXTRA = "zsq-timm[timm]"
#: Arguments that would make the library load something itself.
_OWN = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "num_classes")


class Timm:
    """Loads ``timm:NAME[.TAG][@REVISION]``."""

    def __init__(self, options: TimmOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def load(self, ref: str) -> Teacher:
        """The network with its published weights, or those of ``--weights``.

        Raises:
            ZsqError: If timm is missing or has no such network, or its weights are not on the Hub in timm's own form.
            HubError, FileError: If they is not available, or do not fit.
        """
        name, _, revision = ref.partition("@")
        where, o = f"teacher timm:{ref}", self.options
        cfg = _published(name, where)
        if o.weights:
            config = {"architecture": name.partition(".")[0], "num_classes": o.classes or cfg.num_classes, "pretrained_cfg": cfg.to_dict()}
            module = _network(config, where)
            load_into(module, read_weights(o.weights, self.ctx.trust_code), o.weights)
            return teacher_from(module, f"timm:{ref}", o.over(_spec(config)), config["num_classes"], where=o.weights)
        if not cfg.hf_hub_id or cfg.custom_load or cfg.hf_hub_filename:
            what = "its weights are not on the Hub in timm's own form" if cfg.has_weights else "it is an architecture without weights"
            raise ZsqError(f"'{name}': {what}", where, "give --weights FILE")
        repository = hub.Repository.open(f"{cfg.hf_hub_id}@{revision}" if revision else cfg.hf_hub_id, "timm")
        full = ".".join(part for part in (cfg.architecture, cfg.tag) if part)
        return _read(repository, o, self.ctx, f"timm:{full}@{repository.commit}")


class TimmReader:
    """Reads repositories in timm's format: ``config.json`` and ``model.safetensors``."""

    def __init__(self, options: InputOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def read(self, repository: Repository) -> Teacher:
        """The network with its weights.

        Raises:
            ZsqError: If timm is missing, or does not know the network.
            HubError, FileError: If the weights is not available, or do not fit.
        """
        return _read(repository, self.options, self.ctx, repository.ref)


def _read(repository: Repository, options: InputOptions, ctx: Context, ref: str) -> Teacher:
    config, where = repository.config, repository.ref
    module = _network(config, where)
    load_into(module, repository.weights(ctx.trust_code), where)
    told = _preset(config).get("license")
    license = told if isinstance(told, str) else repository.license()
    return teacher_from(module, ref, options.over(_spec(config)), _classes(config), where=where, labels=_labels(config), license=license)


def _published(name: str, where: str) -> Any:
    """timm's own record of the weights ``NAME`` or ``NAME.TAG``."""
    timm = library("timm", _EXTRA, where)
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that this network does not have
        cfg = None
    if cfg is None or not timm.is_model(name):
        known = timm.list_models(f"{name.partition('.')[0]}.*", include_tags=True)
        hint = f"it has: {', '.join(known[:6])}" if known else nearest(name, timm.list_models()) or "timm.list_models() names them"
        raise ZsqError(f"timm has no '{name}'", where, hint)
    return cfg


def _network(config: Mapping[str, Any], where: str) -> nn.Module:
    """The network that ``config.json`` describes, without its weights."""
    timm = library("timm", _EXTRA, where)
    name, args = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(name, str) or not timm.is_model(name):
        raise FileError(f"this timm has no architecture '{name}'", where, f"update it: pip install -U '{_EXTRA}'")
    if not isinstance(args, dict):
        raise FileError("'model_args' in config.json is not an object", where, "the repository is damaged")
    args = {key: value for key, value in args.items() if key not in _OWN}
    try:
        with torch.random.fork_rng(devices=[]):  # initial values are drawn, and overwritten next
            module = timm.create_model(name, pretrained=False, **({"num_classes": n} if (n := _classes(config)) else {}), **args)
    except Exception as error:  # whatever an architecture makes of arguments that are none of its own
        raise FileError(
            f"timm cannot build '{name}': {first_line(error)}", where, "config.json is damaged, or written for another timm"
        ) from error
    found: nn.Module = module
    return found


def _preset(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the weights expect; older repositories have it at the top."""
    preset = config.get("pretrained_cfg", config)
    return preset if isinstance(preset, Mapping) else {}


def _classes(config: Mapping[str, Any]) -> int | None:
    classes = config.get("num_classes", _preset(config).get("num_classes"))
    return classes if isinstance(classes, int) else None


def _spec(config: Mapping[str, Any]) -> dict[str, Any]:
    preset = _preset(config)
    return {"shape": preset.get("input_size"), "mean": preset.get("mean"), "std": preset.get("std")}


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes where they are told for every one of them; descriptions before codes."""
    for key in ("label_descriptions", "label_names", "labels"):
        names = config.get(key) or _preset(config).get(key)
        if isinstance(names, Mapping):
            codes = config.get("label_names") or list(names)
            names = [names.get(code) for code in codes] if isinstance(codes, list) else list(names.values())
        if isinstance(names, list) and len(names) == _classes(config) and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()
