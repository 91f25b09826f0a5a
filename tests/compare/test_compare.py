"""``zsq compare``: what is ranked together and what never is, figures over seeds, and every form of output."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsq_cli.app import main
from zsq_cli.compare.ranking import Figure

Add = Callable[..., Path]


@pytest.fixture
def compared(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """``compared(folder, ...)``: what ``zsq compare --json`` says, with exit code and standard error."""

    def call(*words: object) -> dict[str, Any]:
        capsys.readouterr()
        code = main(["compare", *map(str, words), "--json"])
        said = capsys.readouterr()
        return {**json.loads(said.out), "code": code, "err": said.err}

    return call


def test_seeds_of_one_method_are_one_row_with_mean_and_spread(add: Add, compared: Any, tmp_path: Path) -> None:
    for seed, top1 in enumerate((89.0, 90.0, 91.0)):
        add(f"q{seed}", seed=seed, top1=top1, seconds=100.0 + seed)
    add("other", synth="dreams", top1=85.0)
    (ranking,) = compared(tmp_path / "runs")["rankings"]
    first, second = ranking["rows"]
    assert ranking["teacher_value"] == 91.4 and ranking["images"] == 2000 and ranking["metric"] == "top1"
    assert (first["method"], first["bits"], first["seeds"]) == ("noise / uniform / minmax / kd / finetune", "W4A4", 3)
    assert (first["value"], first["spread"], first["drop"]) == (90.0, 1.0, pytest.approx(1.4))
    assert first["seconds"] == 101.0 and first["size_bytes"] == 160_000 and len(first["folders"]) == 3
    assert (second["place"], second["value"], second["spread"]) == (2, 85.0, None)


def test_runs_of_one_seed_count_once(add: Add, compared: Any, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        add(name, seed=0, top1=90.0)
    add("d", seed=1, top1=88.0)
    row = compared(tmp_path / "runs")["rankings"][0]["rows"][0]
    assert row["seeds"] == 2 and row["value"] == 89.0 and row["spread"] == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    "different",
    [
        {"scheme": "deploy"},
        {"fingerprint": "b" * 64},
        {"npz": "data/others.npz"},
        {"npz": None},
        {"images": 1000},
        {"own": 91.35},
    ],
    ids=lambda value: next(iter(value)),
)
def test_what_cannot_be_compared_is_ranked_apart(different: dict[str, Any], add: Add, compared: Any, tmp_path: Path) -> None:
    add("one")
    add("two", **different)
    found = compared(tmp_path / "runs")
    assert [len(ranking["rows"]) for ranking in found["rankings"]] == [1, 1]
    heads = [{key: value for key, value in ranking.items() if key not in ("rows", "notes")} for ranking in found["rankings"]]
    assert heads[0] != heads[1]


def test_the_same_images_in_another_folder_and_another_name_of_one_network_are_ranked_together(
    add: Add, compared: Any, tmp_path: Path
) -> None:
    add("one", npz="here/images.npz")
    add("two", npz="/there/images.npz", teacher="zoo:net", synth="dreams")
    assert len(compared(tmp_path / "runs")["rankings"]) == 1


@pytest.mark.parametrize("without", [{"top1": None}, {"own": None}, {"images": 0}], ids=lambda value: next(iter(value)))
def test_a_run_without_real_images_is_shown_and_not_ranked(without: dict[str, Any], add: Add, compared: Any, tmp_path: Path) -> None:
    folder = add("alone", **without)
    found = compared(tmp_path / "runs")
    assert found["rankings"] == [] and [row["folder"] for row in found["unranked"]] == [str(folder)] and found["code"] == 0


def test_settings_tell_rows_of_one_method_apart(add: Add, compared: Any, tmp_path: Path) -> None:
    for name, steps in (("short", 100), ("long", 400)):
        path = add(name) / "report.json"
        values = json.loads(path.read_text())
        values["recipe"]["tune"]["steps"] = steps
        path.write_text(json.dumps(values))
    rows = compared(tmp_path / "runs")["rankings"][0]["rows"]
    assert {row["settings"] for row in rows} == {"tune.steps=100", "tune.steps=400"}


@pytest.mark.parametrize(("by", "first"), [("accuracy", "best"), ("size", "small"), ("time", "fast")])
def test_order(by: str, first: str, add: Add, compared: Any, tmp_path: Path) -> None:
    add("best", synth="best", top1=91.0)
    add("small", synth="small", size=1000)
    add("fast", synth="fast", seconds=1.0)
    rows = compared(tmp_path / "runs", "--by", by)["rankings"][0]["rows"]
    assert rows[0]["method"].startswith(first) and [row["place"] for row in rows] == [1, 2, 3]


def test_notes_say_what_makes_figures_doubtful(add: Add, compared: Any, tmp_path: Path) -> None:
    add("one")
    add("two", synth="dreams", hardware={"cpu": "another", "threads": 8}, versions={"zsq": "0.2.0"}, stopped=True)
    notes = " ".join(compared(tmp_path / "runs")["rankings"][0]["notes"])
    assert "2 machines" in notes and "0.1.0, 0.2.0" in notes and "1 of 2 runs were ended early" in notes


BAD = {
    "missing": (None, "no such folder"),
    "empty": ("", "holds no run"),
    "no JSON": ("{", "not JSON"),
    "somebody else's": ('{"runs": 3}', "none of zsq"),
    "of the future": ('{"schema": 2, "student": {}}', "schema 2"),
    "lacking": ('{"schema": 1, "student": {}, "teacher": {}}', "damaged"),
    "of a run that stopped": ('{"schema": 1, "last_good": {"why": "loss is nan"}}', "loss is nan"),
    "deep": ("[" * 100_000, "not JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_bad_folder_is_one_message_and_the_others_are_compared(kind: str, add: Add, compared: Any, tmp_path: Path) -> None:
    content, said = BAD[kind]
    good, bad = add("good"), tmp_path / "bad"
    if content is not None:
        bad.mkdir()
        if content:
            (bad / "report.json").write_text(content)
    found = compared(good, bad)
    lines = found["err"].strip().splitlines()
    assert found["code"] == 1 and len(found["rankings"]) == 1
    assert len(lines) == 1 and str(bad) in lines[0] and said in lines[0]
    assert [row["place"] for row in found["left_out"]] == [str(bad)]


@pytest.mark.parametrize("field", ["top1", "seconds", "size"])
def test_numbers_that_are_none_do_not_enter(field: str, add: Add, compared: Any) -> None:
    good, bad = add("good"), add("bad", **{field: float("nan")})
    found = compared(good, bad)
    assert [row["place"] for row in found["left_out"]] == [str(bad)] and "NaN" not in json.dumps(found)


def test_nothing_to_compare_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert "there is no run to compare" in capsys.readouterr().err


def test_a_run_is_found_once_and_hidden_folders_and_links_are_not_entered(add: Add, compared: Any, tmp_path: Path) -> None:
    folder = add("deep/er/one")
    add(".scratch/two", top1=1.0)
    (tmp_path / "runs" / "link").symlink_to(folder)
    (tmp_path / "runs" / "round").symlink_to(tmp_path / "runs")
    found = compared(tmp_path / "runs", folder, folder / "report.json")
    assert [row["folders"] for row in found["rankings"][0]["rows"]] == [[str(folder)]] and found["code"] == 0


def test_csv_is_a_line_per_row_and_starts_no_formula(add: Add, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add("one", synth="=1+1")
    add("two", scheme="deploy")
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "runs"), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["ranking"] for row in rows} == {"1", "2"} and {row["scheme"] for row in rows} == {"paper", "deploy"}
    assert not any(value.startswith("=") for row in rows for value in row.values())
    assert main(["compare", str(tmp_path / "runs"), "--csv", "--json"]) == 2


def test_the_table_shows_the_teachers_own_figure(add: Add, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add("one", seed=0, top1=90.0)
    add("two", seed=1, top1=90.5)
    add("three", scheme="deploy")
    assert main(["compare", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert out.count("the teacher's own top1: 91.40") == 2 and "90.25 ± 0.35" in out and "not comparable" in out
    assert "160.0 kB, 6.8x smaller" in out and "1 min 40 s" in out


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100)), min_size=1))
def test_a_mean_lies_within_its_values(pairs: list[tuple[int, float]]) -> None:
    figure = Figure.of(pairs)
    values = [value for _, value in pairs]
    assert min(values) - 1e-9 <= figure.mean <= max(values) + 1e-9
    assert (figure.spread is None) == (figure.count == 1) == (len({seed for seed, _ in pairs}) == 1)
    assert figure.spread is None or 0 <= figure.spread <= 71  # two values at both ends


def test_a_hundred_runs_in_under_three_seconds_of_cpu_and_without_torch(add: Add, tmp_path: Path) -> None:
    for number in range(100):
        add(f"run{number}", synth=f"s{number // 5}", seed=number % 5, top1=80.0 + number / 10, bits=2 + number // 5 % 7)
    code = (
        "import sys, time\nfrom zsq_cli.app import main\ncode = main(sys.argv[1:])\n"
        "print(code, time.process_time(), 'torch' in sys.modules, file=sys.stderr)"
    )
    words = ["compare", str(tmp_path / "runs"), "--html", str(tmp_path / "page.html")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=env, check=True)
    code_, spent, torch = done.stderr.strip().splitlines()[-1].split()
    assert (code_, torch) == ("0", "False") and float(spent) < 3.0
    assert (tmp_path / "page.html").stat().st_size < 1_000_000 and "W8A8" in done.stdout
