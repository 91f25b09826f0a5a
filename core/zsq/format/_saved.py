"""Loads a saved student as a module; checks its files before building anything (docs/format.md)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load as tensors_of
from torch import nn

from zsq.errors import FileError
from zsq.format._files import AGAIN, CONFIG, WEIGHTS, brief, read, read_config
from zsq.format._network import rebuild


def load(folder: Path | str, device: torch.device | str = "cpu") -> nn.Module:
    """The student saved in ``folder``, in eval mode; its outputs equal those of the student that was saved, bit for bit.

    It takes inputs normalised as the teacher's (``inputs`` in ``config.json``), and needs no code of the teacher.

    Args:
        folder: A run folder. :func:`zsq.load` also takes a student in a store.
        device: Where its tensors shall be.

    Raises:
        FileError: If a file is missing, damaged, of another format, or the two do not belong together.
    """
    folder = Path(folder)
    config = read_config(folder)
    content = read(folder, WEIGHTS)
    if hashlib.sha256(content).hexdigest() != config["sha256"]:
        raise FileError(
            f"{WEIGHTS} is not the file that {CONFIG} was written with", str(folder), "it is damaged or mixed up: copy the run again"
        )
    try:
        tensors = tensors_of(content)
    except Exception as error:  # the reader's own kinds, and KeyError for a type that torch lacks
        raise FileError(f"{WEIGHTS} is not a safetensors file: {brief(error)}", str(folder), AGAIN) from error
    try:
        return rebuild(config, tensors, torch.device(device))
    except Exception as error:  # anything that a damaged description leads to
        raise FileError(f"{CONFIG} does not describe a network: {brief(error)}", str(folder), AGAIN) from error
