"""Checkpoints: what is read, what is refused, and that refusing runs nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zsq.errors import FileError
from zsq.teachers import fingerprint, load_into, read_weights


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


class Evil:
    """Unpickled, it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}, lambda s: {"model": {"state_dict": s}}]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files_in_their_usual_wrappings(tmp_path: Path, wrap: Any, prefix: str) -> None:
    source, target = network(), nn.Sequential(*network())
    with torch.no_grad():
        source[0].weight.add_(1)
    torch.save(wrap({prefix + k: v for k, v in source.state_dict().items()}), tmp_path / "w.pt")
    load_into(target, read_weights(tmp_path / "w.pt"), "w.pt")
    assert fingerprint(target) == fingerprint(source)


def test_safetensors(tmp_path: Path) -> None:
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    assert all(torch.equal(v, network().state_dict()[k]) for k, v in read_weights(str(tmp_path / "w.safetensors")).items())


def test_prefix_stays_where_the_network_has_it() -> None:
    wrapped = nn.ModuleDict({"module": network()})
    load_into(wrapped, wrapped.state_dict(), "w.pt")


@pytest.mark.parametrize("form", ["torch", "pickle", "pickle 4", "whole network"])
def test_a_pickle_that_carries_code_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    path, target = tmp_path / "w.pt", tmp_path / "created by the checkpoint"
    state = {"weight": torch.ones(1), "extra": Evil(target)}
    if form == "torch":
        torch.save(state, path)
    elif form == "whole network":
        torch.save(network(), path)
    else:
        path.write_bytes(pickle.dumps({"extra": Evil(target)}, protocol=4 if "4" in form else 2))
    with pytest.raises(FileError, match="contains code") as caught:
        read_weights(path)
    assert not target.exists()
    assert "safetensors" in caught.value.hint and str(path) in caught.value.where
    if form == "torch":  # the file is what it claims to be: trusted, it does its work
        with pytest.raises(FileError, match="'extra'"):
            read_weights(path, trust_code=True)
        assert target.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip", b"\xff" * 64, None])
def test_damaged_or_missing_files_are_errors_for_people(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError) as caught:
        read_weights(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("state", [{}, {"epoch": 3}, torch.ones(3), {"state_dict": {"w": [1, 2]}}])
def test_files_without_a_state_are_refused(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(FileError, match="no state of a network"):
        read_weights(tmp_path / "w.pt")


def _edited(**changes: Any) -> dict[str, Any]:
    state = {**network().state_dict(), **{k.replace("_", ".", 1): v for k, v in changes.items()}}
    return {k: v for k, v in state.items() if v is not None}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (_edited(**{"3_weight": None, "3_bias": None}), ["2 missing", "'3.weight'"]),
        (_edited(head_weight=torch.ones(1)), ["1 unexpected", "'head.weight'"]),
        (_edited(**{"3_bias": None, "3_biass": torch.ones(2)}), ["1 missing", "1 unexpected", "did you mean '3.biass'?"]),
        (_edited(**{"3_weight": torch.ones(10, 4), "3_bias": torch.ones(10)}), ["'3.weight'", "(10, 4)", "(2, 4)", "1 more"]),
        (_edited(**{"3_bias": torch.tensor([1.0, float("nan")])}), ["'3.bias'", "not finite"]),
        (_edited(**{"3_bias": torch.tensor([1, 2])}), ["'3.bias'", "int64"]),
    ],
)
def test_weights_that_do_not_fit_name_the_key_and_change_nothing(tensors: dict[str, Any], words: list[str]) -> None:
    target = network()
    before = fingerprint(target)
    with pytest.raises(FileError) as caught:
        load_into(target, tensors, "w.pt")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert fingerprint(target) == before


def test_old_checkpoints_lack_the_batch_counter() -> None:
    load_into(network(), _edited(**{"1_num_batches_tracked": None}), "w.pt")


def test_fingerprint_sees_names_shapes_types_and_values() -> None:
    same = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert fingerprint(same) == fingerprint(network()) and len(fingerprint(same)) == 64
    changed = network()
    changed[3].bias.data[0] += 1e-7
    renamed = nn.Sequential(nn.Identity(), *network())
    others = [fingerprint(n) for n in (changed, renamed, network().double())]
    assert len({fingerprint(network()), *others}) == 4
