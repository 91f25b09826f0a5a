"""Reads weights files without running code, copies them into a network, and computes its fingerprint."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zsq.errors import FileError, nearest

#: Keys of training scripts for the state of the network.
_WRAPPERS = ("state_dict", "model")
_SAVE = "save the result of `state_dict()`"
#: First bytes of a pickle newer than those that torch's restricted reader understands.
_NEW_PICKLES = (b"\x80\x04", b"\x80\x05")


def read_weights(path: Path | str, trust_code: bool = False) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU.

    Args:
        path: A ``.safetensors`` file, or a torch file; a state under ``state_dict`` or ``model`` is unwrapped.
        trust_code: Also run code that a torch file contains.

    Raises:
        FileError: If the file is missing, damaged, holds no network state, or contains code and is not trusted.
    """
    path = Path(path)
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path, trust_code)
    while isinstance(state, Mapping) and (key := next((k for k in _WRAPPERS if isinstance(state.get(k), Mapping)), None)):
        state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise FileError("no state of a network, but " + ("nothing" if state == {} else f"a {type(state).__name__}"), str(path), _SAVE)
    if (odd := next((name for name, value in state.items() if not isinstance(value, Tensor)), None)) is not None:
        raise FileError(f"no state of a network: '{odd}' is a {type(state[odd]).__name__}, not a tensor", str(path), _SAVE)
    return {str(name): tensor for name, tensor in state.items()}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy ``tensors`` into ``module``: every name and shape has to fit. The prefix ``module.`` of DataParallel is dropped.

    BatchNorm's ``num_batches_tracked`` may be missing: older weights files lack it, and no output depends on it.

    Raises:
        FileError: Naming the first key that is missing, unexpected, of another shape or type, or not finite; ``module`` is
            then unchanged.
    """
    own = module.state_dict()
    if all(name.startswith("module.") for name in tensors) and not any(name.startswith("module.") for name in own):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    missing = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in own]
    if missing or unexpected:
        parts = [f"{len(names)} {kind} (first '{names[0]}')" for kind, names in (("missing", missing), ("unexpected", unexpected)) if names]
        hint = nearest(missing[0], unexpected) if missing and unexpected else ""
        raise FileError(
            f"weights do not fit the network: {', '.join(parts)}", where, hint or "is it the weights file of this architecture?"
        )
    shapes = [name for name, tensor in tensors.items() if tensor.shape != own[name].shape]
    if shapes:
        name = shapes[0]
        what = f"'{name}' has shape {tuple(tensors[name].shape)}, but the network expects {tuple(own[name].shape)}"
        more = f" (and {len(shapes) - 1} more)" if len(shapes) > 1 else ""
        raise FileError(what + more, where, "is it the weights file of this architecture, with the same number of classes?")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != own[name].is_floating_point():
            raise FileError(
                f"'{name}' is {_dtype(tensor)}, but the network expects {_dtype(own[name])}", where, "are the weights quantized?"
            )
        if not torch.isfinite(tensor).all():
            raise FileError(f"'{name}' holds values that are not finite", where, "the weights file is damaged, or training diverged")
    module.load_state_dict(dict(tensors), strict=False)


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over the sorted names of all parameters and buffers in the state, with their shapes, types and bytes."""
    sha = hashlib.sha256()
    state: Iterable[tuple[str, Any]] = sorted(module.state_dict().items())
    for name, tensor in state:
        if isinstance(tensor, Tensor):
            sha.update(f"{name} {tuple(tensor.shape)} {_dtype(tensor)}\n".encode())
            sha.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (SafetensorError, ValueError) as error:
        raise FileError("not a safetensors file, or damaged", str(path), "copy it again; torch files end in .pt or .pth") from error


def _read_torch(path: Path, trust_code: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about old formats
            return torch.load(path, map_location="cpu", weights_only=not trust_code)
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # a damaged file can raise anything in the unpickler
        if isinstance(error, pickle.UnpicklingError) and ("GLOBAL" in str(error) or _starts_with(path, _NEW_PICKLES)):
            what = "this weights file contains code or objects besides tensors, and loading would run it; refused"
            raise FileError(what, str(path), "convert it to safetensors; if you trust whoever wrote it, pass --trust-code") from None
        raise FileError(
            "not a torch weights file, or damaged", str(path), "copy it again; safetensors files end in .safetensors"
        ) from error


def _starts_with(path: Path, signs: tuple[bytes, ...]) -> bool:
    with path.open("rb") as file:
        return file.read(16).startswith(signs)


def _unreadable(path: Path, error: OSError) -> FileError:
    reason = os.strerror(error.errno) if error.errno else "no such file"
    near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
    return FileError(f"cannot read the weights: {reason}", str(path), near or "name an existing file with --weights")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
