"""Logs: every event of a run as it happens, valid JSON whatever the numbers; a log that fails costs nothing but itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import interrupt, tuning_at

from zsq import events
from zsq._api.recipes import apply_flags
from zsq._builtin.jsonl import Jsonl, plain
from zsq._builtin.options import JsonlOptions
from zsq._compose import compose
from zsq._manager import Manager
from zsq._recipe import Recipe
from zsq._run import engine
from zsq._run.checkpoints import reopen
from zsq.errors import FileError, PlanError, ZsqError
from zsq.testing._chains import tiny_recipe, tiny_run

MANAGER = Manager.discover(third_party=False)


def run(folder: Path | None = None, **named: Any) -> Any:
    return tiny_run(named.pop("sections", {}), folder=folder, manager=MANAGER, **named)


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_every_event_is_a_line_that_can_be_read_at_once(tmp_path: Path) -> None:
    path, heard, written = tmp_path / "logs" / "run.jsonl", [], []

    def listen(event: events.Event) -> None:
        written.append(len(lines(path)) if path.exists() else 0)
        heard.append(event)

    run(tmp_path / "run", sections={"log": f"jsonl:{path}"}, listeners=[listen])
    rows = lines(path)
    assert written == list(range(len(heard)))  # a listener hears first, so the log then holds all events before
    assert len(rows) == len(heard) and [row["seconds"] for row in rows] == [round(event.seconds, 6) for event in heard]
    assert all(row["schema"] == 1 and row["time"].endswith("+00:00") for row in rows)
    assert rows[0]["event"] == "run-started" and rows[-1]["event"] == "run-ended"
    steps = [row for row in rows if row["event"] == "stepped" and row["phase"] == "tune:finetune"]
    assert [row["step"] for row in steps] == [1, 2] and all(isinstance(row["metrics"]["kd"], float) for row in steps)
    assert rows[-1]["report"] == json.loads((tmp_path / "run" / "report.json").read_text())


def test_a_log_changes_nothing_that_is_saved(tmp_path: Path) -> None:
    run(tmp_path / "with", sections={"log": f"jsonl:{tmp_path / 'run.jsonl'}"})
    run(tmp_path / "without")
    for name in ("model.safetensors", "config.json", "recipe.yaml"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_come_back(number: float) -> None:
    text = json.dumps(plain({"a": number, "b": [torch.tensor(number)]}), allow_nan=False)
    back = json.loads(text)
    assert repr(float(back["a"])) == repr(float(back["b"][0])) == repr(number)


def test_tensors_are_numbers_or_shapes_and_objects_are_kinds() -> None:
    assert plain(torch.tensor(2)) == 2 and plain(torch.ones(1)) == 1.0
    assert plain(torch.ones(2, 3)) == {"shape": [2, 3]}
    assert plain(object()) == "object" and plain(Path("a/b")) == "a/b"


def test_a_log_is_continued_and_what_was_half_written_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for text in ("first", "second"):
        log = Jsonl(JsonlOptions(ref=str(path)), None)  # type: ignore[arg-type]
        log(events.Message(1.0, text))
        log.close()
        with path.open("a") as file:
            file.write('{"schema": 1, "eve')
    log = Jsonl(JsonlOptions(ref=str(path)), None)  # type: ignore[arg-type]
    log(events.Message(1.0, "third"))
    log.close()
    assert [row["text"] for row in lines(path)] == ["first", "second", "third"]


@pytest.mark.parametrize("content", ["precious", '{"schema": 2}\n', "\n"])
def test_nobodys_file_is_written_into(content: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(FileError, match="not a log"):
        run(sections={"log": f"jsonl:{path}"})
    assert path.read_text() == content


@pytest.mark.parametrize("log", ["jsonl", "jsonl:."])
def test_a_log_without_a_place_is_refused_before_the_run(log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZsqError):
        run(tmp_path / "run", sections={"log": log})
    assert not (tmp_path / "run").exists()


def test_a_log_inside_the_runs_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="the run's own folder"):
        run(tmp_path / "run", sections={"log": f"jsonl:{tmp_path / 'run' / 'log.jsonl'}"})
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.fault("the disk is full for a log", "one message; the run ends as ever, the log lacks what came after")
def test_a_full_disk_costs_the_log_and_not_the_run(tmp_path: Path) -> None:
    heard: list[events.Event] = []
    other = tmp_path / "other.jsonl"
    result = run(tmp_path / "run", sections={"log": ["jsonl:/dev/full", f"jsonl:{other}"]}, listeners=[heard.append])
    said = [event.text for event in heard if isinstance(event, events.Message)]
    assert len(said) == 1 and "jsonl:/dev/full" in said[0] and "No space left" in said[0]
    assert result.report["steps"] == 2
    assert said[0] in [row.get("text") for row in lines(other)] and lines(other)[-1]["event"] == "run-ended"


@pytest.mark.fault("a log may not write where it should", "one message; the run ends as ever, the log lacks what came after")
def test_a_place_that_cannot_be_written_costs_the_log_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    heard: list[events.Event] = []
    result = run(sections={"log": f"jsonl:{tmp_path / 'file' / 'log.jsonl'}"}, listeners=[heard.append])
    assert result.report["steps"] == 2
    assert len([event for event in heard if isinstance(event, events.Message)]) == 1


def test_logs_come_from_flags_and_recipes_and_stay_with_a_run_that_goes_on() -> None:
    recipe = apply_flags(Recipe(), log=["jsonl:a", "jsonl:b"], synth="noise")
    assert recipe.log == [{"name": "jsonl", "ref": "a"}, {"name": "jsonl", "ref": "b"}]
    plan = compose(tiny_recipe({"log": "jsonl:a"}, 2, MANAGER), MANAGER)
    assert plan.recipe.to_dict()["log"] == [{"name": "jsonl", "ref": "a"}]
    assert compose(Recipe.from_dict(plan.recipe.to_dict()), MANAGER).logs[0].options == JsonlOptions(ref="a")
    assert "log" not in plan.lasting.recipe.to_dict()


def test_a_run_that_goes_on_goes_on_with_its_log(tmp_path: Path) -> None:
    path, folder = tmp_path / "run.jsonl", tmp_path / "run"
    with pytest.raises(ZsqError, match="resumes it"):
        run(folder, sections={"log": f"jsonl:{path}", "run": {"checkpoint": 0}}, steps=4, listeners=[tuning_at(3, interrupt)])
    before = len(lines(path))
    plan, saved = reopen(folder, MANAGER)
    engine.run(plan, folder, manager=MANAGER, saved=saved)
    rows = lines(path)
    assert rows[before]["event"] == "run-started" and rows[-1]["event"] == "run-ended"
    assert [row["step"] for row in rows if row["event"] == "stepped" and row["phase"].startswith("tune")] == [1, 2, 3, 4]
    assert "log" not in (folder / "recipe.yaml").read_text() and "log" not in rows[-1]["report"]["recipe"]
