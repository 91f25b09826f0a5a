"""Image classifiers of transformers, from repositories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from zsq_hub import repository as hub

from zsq.errors import FileError, first_line, library
from zsq.options import InputOptions
from zsq.protocols import Repository
from zsq.teachers import teacher_from
from zsq.types import Context, Teacher
from zsq_transformers.inputs import spec

_EXTRA = "zsq-transformers[transformers]"
_SAFE = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors", "preprocessor_config.json")
#: What --trust-code adds: code of the repository, and weights as a pickle.
_TRUSTED = ("*.py", "pytorch_model.bin")


class Transformers:
    """Loads ``transformers:ORG/NAME[@REVISION]``."""

    def __init__(self, options: InputOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def load(self, ref: str) -> Teacher:
        """As :meth:`TransformersReader.read`."""
        return TransformersReader(self.options, self.ctx).read(hub.Repository.open(ref, "transformers"))


class Classifier(nn.Module):
    """The network with its logits (N, classes) alone as output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs).logits
        return logits


class TransformersReader:
    """Reads repositories in the format of transformers: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``."""

    def __init__(self, options: InputOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def read(self, repository: Repository) -> Teacher:
        """The network as a classifier.

        Raises:
            ComponentError: If transformers is missing.
            HubError, FileError: If the files is not available, describe no image classifier, or do not fit each other.
        """
        where, config, trusted = repository.ref, repository.config, self.ctx.trust_code
        transformers = library("transformers", _EXTRA, where)
        if config.get("auto_map") and not trusted:
            what = "this network is code in its repository, which would run on loading; refused"
            raise FileError(what, where, "if you trust whoever wrote it, pass --trust-code")
        folder = repository.folder(*_SAFE, *(_TRUSTED if trusted else ()))
        if not trusted and not any(folder.glob("model*.safetensors")):
            raise FileError(
                f"'{repository.name}' has no model.safetensors", where, "if you trust whoever wrote it, --trust-code reads its pickle"
            )
        module = Classifier(_network(transformers, folder, where, trusted))
        inputs, license = self.options.over(spec(config, _preprocessing(folder, where))), repository.license()
        return teacher_from(module, where, inputs, None, where=where, labels=_labels(config), license=license)


def _network(transformers: Any, folder: Path, where: str, trust_code: bool) -> nn.Module:
    """The network with all of its weights, and no others."""
    said = transformers.logging
    verbosity, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            module, found = transformers.AutoModelForImageClassification.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=None if trust_code else True,
                trust_remote_code=trust_code,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # whatever the library makes of a repository
        raise FileError(
            f"transformers cannot load it: {first_line(error)}", where, "is it an image classifier with its weights?"
        ) from error
    finally:
        said.set_verbosity(verbosity)
        if bars:
            said.enable_progress_bar()
    if missing := sorted(str(key) for key in (*found["missing_keys"], *found.get("mismatched_keys", ()))):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileError(f"its weights do not fit the network: no '{missing[0]}'{more}", where, "is it an image classifier?")
    result: nn.Module = module
    return result


def _preprocessing(folder: Path, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise FileError("preprocessor_config.json is not a JSON object", where, "the repository is damaged")
    return found


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes in the order of their numbers; none where they are the numbers only."""
    names = config.get("id2label")
    if not isinstance(names, Mapping) or not all(str(n) in names for n in range(len(names))):
        return ()
    ordered = tuple(str(names[str(n)]) for n in range(len(names)))
    return () if all(name == f"LABEL_{n}" for n, name in enumerate(ordered)) else ordered
