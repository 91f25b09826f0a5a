"""What a run leaves for TensorBoard, read back from its files; and that it never costs the run."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zsq.errors import ComponentError
from zsq.testing import conformance, tiny_run

test_conformance = conformance("tensorboard")


def records(folder: Path) -> Iterator[Any]:
    """Every record of every file: length, checksum of it, content, checksum of it."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event()
            event.ParseFromString(data[at + 12 : at + 12 + size])
            yield event
            at += 16 + size


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in records(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 25 steps with its log beside it."""
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    folder = tmp_path_factory.mktemp("run")
    tiny_run({"log": f"tensorboard:{folder / 'log'}"}, 25, folder=folder / "out")
    return folder


def test_curves_by_phase_and_term(run: Path) -> None:
    found = points(run / "log")
    assert [step for step, _ in found["tune.finetune/kd"]] == [1, 10, 20, 25]
    assert all(value == value for _, value in found["tune.finetune/loss"])


def test_final_metrics_are_those_of_the_report(run: Path) -> None:
    found, report = points(run / "log"), json.loads((run / "out" / "report.json").read_text())
    assert report["student"]["metrics"]
    for name, value in report["student"]["metrics"].items():
        assert found[f"student/{name}"] == [(0, pytest.approx(value, rel=1e-6))]
    assert found["run/bytes"] == [(0, report["student"]["size_bytes"])]


def test_the_synthetic_images_are_there(run: Path) -> None:
    pictures = [value.image for event in records(run / "log") for value in event.summary.value if value.WhichOneof("value") == "image"]
    assert [picture.encoded_image_string for picture in pictures] == [(run / "out" / "images.png").read_bytes()]
    assert pictures[0].width > pictures[0].height // 8 > 0


def test_the_recipe_is_told(run: Path) -> None:
    texts = [
        value.tensor.string_val[0].decode() for event in records(run / "log") for value in event.summary.value if "recipe" in value.tag
    ]
    assert len(texts) == 1 and "finetune" in texts[0]


def test_every_is_an_option(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    tiny_run({"log": {"name": "tensorboard", "ref": str(tmp_path / "log"), "every": 1}}, 3)
    assert [step for step, _ in points(tmp_path / "log")["tune.finetune/kd"]] == [1, 2, 3]


def test_without_the_library_the_run_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboardX"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ComponentError) as caught:
        tiny_run({"log": f"tensorboard:{tmp_path / 'log'}"}, folder=tmp_path / "out")
    assert "tensorboardX" in str(caught.value) and "pip install 'zsq-tensorboard[writer]'" in caught.value.hint
    assert not (tmp_path / "out").exists() and not (tmp_path / "log").exists()


@pytest.mark.fault("the disk is full for a TensorBoard log", "one message; the run ends as ever, the log lacks what came after")
def test_a_full_disk_costs_the_log_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    from tensorboardX import record_writer

    from zsq import events

    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    monkeypatch.setattr(record_writer, "open_file", lambda path: full.open("wb"))
    heard: list[events.Event] = []
    result = tiny_run({"log": f"tensorboard:{tmp_path / 'log'}"}, listeners=[heard.append])
    said = [event.text for event in heard if isinstance(event, events.Message)]
    assert result.report["steps"] == 2 and len(said) == 1 and "No space left" in said[0]
