"""Checkpoints on the disk: damaged, cut short, out of space, of a run that is done."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from resuming import PLAIN, go_on, hearing, interrupt, same, start, tuning_at

from zsq._run.checkpoints import FORMAT, CheckpointFolder, checkpoint_folder, found, read
from zsq._run.stopping import Interrupted
from zsq.errors import FileError


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A run that was stopped while it was tuned, with two checkpoints."""
    start(PLAIN, tmp_path / "whole")
    with pytest.raises(Interrupted):
        start(PLAIN, tmp_path / "cut", listeners=[tuning_at(4, interrupt)])
    return tmp_path / "cut"


@pytest.mark.fault(
    "any byte of the newest checkpoint flipped, the file cut short, emptied, or in the place of another",
    "a message, the run goes on from the checkpoint before, and ends with the same bytes",
)
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "swap"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(harm: str, cut: Path) -> None:
    (newest, path), (older, before) = found(checkpoint_folder(cut))
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes({"flip": content, "cut": content[: len(content) // 2], "empty": b"", "swap": before.read_bytes()}[harm])
    assert go_on(cut)[:2] == [f"checkpoint {newest} is damaged: the one before is used", "resuming at step 2 of tune:finetune"]
    assert newest == older + 1 and same(cut, cut.with_name("whole"))


def test_no_flipped_bit_goes_unseen(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(checkpoint_folder(tmp_path / "run"), 0, print)
    assert checkpoints.write({"format": FORMAT, "at": 3}) and checkpoints.write({"format": FORMAT, "at": 4})
    (_, path), _ = found(checkpoint_folder(tmp_path / "run"))
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1 << position % 8]) + content[position + 1 :])
        value = read(tmp_path / "run")
        assert value["at"] == 3 and len(value["notes"]) == 1, position


def test_when_all_are_damaged_nothing_is_done(cut: Path) -> None:
    for _, path in found(checkpoint_folder(cut)):
        path.write_bytes(b"")
    with pytest.raises(FileError, match=r"every checkpoint is damaged(.|\n)*without --resume"):
        go_on(cut)


def test_two_are_kept_and_both_are_gone_in_the_end(cut: Path) -> None:
    assert [path.suffix for path in checkpoint_folder(cut).iterdir()] == [".pt"] * 2
    go_on(cut)
    assert not checkpoint_folder(cut).exists()


@pytest.mark.fault("the disk is full when checkpoints are written", "said once; the run goes on and ends with the same bytes")
def test_a_full_disk_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(PLAIN, tmp_path / "whole")
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name.startswith(".state-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    words: list[str] = []
    start(PLAIN, tmp_path / "full", listeners=[hearing(words)])
    assert len(words) == 1 and "No space left" in words[0]
    assert same(tmp_path / "full", tmp_path / "whole")


@pytest.mark.fault("the disk is full, or a plugin breaks, after the student was tuned", "once that is mended the run goes on from there")
def test_what_broke_at_the_end_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(PLAIN, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(FileError, match="No space left"):
        patch.setattr("zsq.format._network.write_atomic", _no_space)
        start(PLAIN, tmp_path / "run")
    assert go_on(tmp_path / "run") == ["resuming at the beginning of evaluate"]
    assert same(tmp_path / "run", tmp_path / "whole")


def _no_space(*_: object) -> None:
    raise FileError("cannot write model.safetensors: No space left on device")
