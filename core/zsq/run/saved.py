"""``zsq.load``: a saved student as a module again, checked before anything is built from it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq.errors import FileError
from zsq.run.places import locate

if TYPE_CHECKING:
    import torch
    from torch import nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: Version of both files together; a reader refuses newer ones.
FORMAT = 1


def load(folder: Path | str, device: torch.device | str = "cpu", *, revision: str | None = None) -> nn.Module:
    """The student saved in ``folder``, in eval mode; its outputs equal those of the student that was saved, bit for bit.

    It takes inputs normalised as the teacher's (``inputs`` in ``config.json``), and needs no code of the teacher.

    Args:
        folder: A run folder, or a student on the Hub: ``"ORG/NAME"`` (see :func:`zsq.run.places.locate`).
        device: Where its tensors shall be.
        revision: Branch, tag or commit, of a student on the Hub.

    Raises:
        FileError: When a file is missing, damaged, newer than this zsq, or the two do not belong together.
    """
    import torch
    from safetensors.torch import load as tensors_of

    from zsq.builtin.safetensors import rebuild

    folder = locate(folder, revision)
    config = _config(folder)
    content = _read(folder / WEIGHTS)
    if hashlib.sha256(content).hexdigest() != config.get("sha256"):
        raise FileError(
            f"{WEIGHTS} is not the file that {CONFIG} was written with", str(folder), "it is damaged or mixed up: copy the run again"
        )
    try:
        return rebuild(config, tensors_of(content), torch.device(device))
    except Exception as error:  # whatever a damaged description leads to
        raise FileError(f"{CONFIG} does not describe a network: {error}", str(folder), "it is damaged: copy the run again") from error


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads(_read(folder / CONFIG))
        version = config["format"]
        if not isinstance(version, int):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise FileError(f"{CONFIG} is not the configuration of a saved student", str(folder), "it is damaged: copy the run again") from None
    if version > FORMAT:
        raise FileError(f"saved in format {version}, but this zsq reads up to {FORMAT}", str(folder), "update with `pip install -U zsq`")
    return dict(config)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(
            f"cannot read {path.name}: {error.strerror or error}", str(path.parent), "name the folder of a finished run"
        ) from error
