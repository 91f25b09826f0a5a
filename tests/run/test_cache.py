"""Tensors kept for later runs: found by everything they depend on, and by nothing less."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from zsq.files import Cache

KEY = {"teacher": "abc", "options": {"lr": 0.1, "steps": 3}}
TENSORS = {"images": torch.arange(12.0).view(3, 4)}


def test_what_was_saved_is_found_again(tmp_path: Path) -> None:
    Cache(tmp_path, "pools").save(KEY, TENSORS)
    found = Cache(tmp_path, "pools").load({"options": {"steps": 3, "lr": 0.1}, "teacher": "abc"})
    assert found is not None and torch.equal(found["images"], TENSORS["images"])


def test_another_key_or_kind_finds_nothing(tmp_path: Path) -> None:
    Cache(tmp_path, "pools").save(KEY, TENSORS)
    assert Cache(tmp_path, "pools").load({**KEY, "options": {"lr": 0.1, "steps": 4}}) is None
    assert Cache(tmp_path, "sensitivities").load(KEY) is None


def test_a_damaged_file_is_no_find_and_is_replaced(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "pools")
    cache.save(KEY, TENSORS)
    path = cache.path(KEY)
    for damage in (b"", path.read_bytes()[:-3], b"\xff" * 100):
        path.write_bytes(damage)
        assert cache.load(KEY) is None
    cache.save(KEY, TENSORS)
    assert cache.load(KEY) is not None
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_that_holds_another_key_is_not_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "pools")
    cache.save(KEY, TENSORS)
    tensors = load_file(cache.path(KEY))
    save_file(tensors, cache.path(KEY), {"key": "another"})
    assert cache.load(KEY) is None


def test_without_a_folder_nothing_is_kept() -> None:
    cache = Cache(None, "pools")
    cache.save(KEY, TENSORS)
    assert cache.path(KEY) is None and cache.load(KEY) is None


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "pools").write_text("a file stands in the way")
    Cache(tmp_path, "pools").save(KEY, TENSORS)
    assert Cache(tmp_path, "pools").load(KEY) is None
