"""Every command and flag has a help text; JSON is JSON; results are printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from zsq_cli.app import app

COMMANDS = {"run", "plan", "show", "recipes", "eval", "export", "verify", "bench", "push", "plugins", "compare", "doctor", "cache"}
PLUGIN_COMMANDS = {"list", "install", "uninstall", "new", "check", "why"}
RUN_FLAGS = {
    "--synth", "--quant", "--calib", "--loss", "--tune", "--set", "--eval", "--export", "--log", "--weights", "--recipe", "--budget",
    "--seed", "--out", "--resume", "--push", "--private", "--precision", "--json", "--plugin-file", "--no-plugins", "--trust-code",
    "--help",
}  # fmt: skip


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))


TREE = dict(walk(typer.main.get_command(app)))


def test_the_commands_are_the_frozen_ones() -> None:
    assert set(TREE[()].commands) == COMMANDS
    assert set(TREE[("plugins",)].commands) == PLUGIN_COMMANDS
    assert {name for p in TREE[("run",)].params for name in p.opts if name.startswith("--")} == RUN_FLAGS
    assert {name for p in TREE[("plan",)].params for name in p.opts if name.startswith("--")} == RUN_FLAGS - {
        "--out",
        "--resume",
        "--push",
        "--private",
        "--trust-code",
    }


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_help_explains_the_command_and_each_parameter(path: tuple[str, ...], zsq: Any) -> None:
    command = TREE[path]
    assert command.help and command.help.strip()
    done = zsq(*path, "--help")
    assert done.code == 0 and "Usage:" in done.out
    text = " ".join(done.out.split())
    for parameter in command.params:
        assert parameter.help, f"{parameter.name} has no help"
        assert " ".join(parameter.help.split())[:30] in text
        assert all(option in text for option in parameter.opts if option.startswith("--"))


def test_version(zsq: Any) -> None:
    from zsq import __version__

    assert zsq("--version").out == f"zsq {__version__}\n"


def test_run_help_appends_the_options_of_what_is_named(zsq: Any) -> None:
    plain, named = zsq("run", "--help").out, zsq("run", "--synth", "noise", "--loss", "0.5*kd", "--help").out
    assert named.startswith(plain.rstrip("\n"))
    assert "--set synth.OPTION" in named and "std" in named
    assert "--set loss.kd.OPTION" in named and "temperature" in named and "Greater than 0." in named


def test_plan_prints_the_chain_and_what_was_set(zsq: Any) -> None:
    words = (
        "plan",
        "py:zsq.testing.teachers:tiny",
        "--quant",
        "uniform4",
        "--loss",
        "kd",
        "--loss",
        "0.5*kd",
        "--set",
        "quant.first_bits=8",
    )
    done = zsq(*words)
    assert done.code == 0, done.err
    assert "uniform4" in done.out and "first_bits=8" in done.out and "0.5 x kd" in done.out and "act.range" in done.out
    plan = json.loads(zsq(*words, "--json").out)
    assert plan["recipe"]["quant"] == {"name": "uniform4", "first_bits": 8}
    assert [c["weight"] for c in plan["components"] if c["role"] == "loss"] == [1.0, 0.5]


def test_flags_go_before_the_recipe_and_set_before_flags(zsq: Any, tmp_path: Any) -> None:
    (tmp_path / "r.yaml").write_text("quant: {name: uniform4, first_bits: 8}\nrun: {seed: 3, batch_size: 32}\n")
    words = (
        "plan",
        "py:zsq.testing.teachers:tiny",
        "--recipe",
        "r.yaml",
        "--seed",
        5,
        "--set",
        "run.batch_size=16",
        "--set",
        "quant.first_bits=6",
    )
    run = json.loads(zsq(*words, "--json").out)["recipe"]
    assert run["run"]["seed"] == 5 and run["run"]["batch_size"] == 16 and run["quant"]["first_bits"] == 6


def test_show_prints_a_preset_with_its_values(zsq: Any) -> None:
    done = zsq("show", "uniform4")
    assert done.code == 0
    assert "quantizer" in done.out and "At least 2, at most 16." in done.out and "zsq.placement._quantizer:Uniform" in done.out
    shown = json.loads(zsq("show", "quant/uniform4", "--json").out)
    values = {row["name"]: row["value"] for row in shown["options"]}
    assert shown["component"] == "uniform" and values["weight_bits"] == 4 and values["scheme"] == "paper"
    assert all(row["help"] and row["type"] for row in shown["options"])


def test_plugins_list_and_why_name_the_builtins(zsq: Any) -> None:
    rows = json.loads(zsq("plugins", "list", "--no-plugins", "--json").out)
    assert rows[0]["name"] == "builtin" and rows[0]["status"] == "ok" and "uniform" in rows[0]["provides"]["quant"]
    only = json.loads(zsq("plugins", "list", "--role", "synth", "--json").out)
    assert all(set(row["provides"]) <= {"synth"} for row in only)
    assert "builtin" in zsq("plugins", "why", "uniform4").out


def test_a_plugin_file_is_a_plugin(zsq: Any, tmp_path: Any) -> None:
    (tmp_path / "oneoff_calib.py").write_text(
        "from zsq import Component, hookimpl\n"
        "@hookimpl\n"
        "def zsq_calibrators():\n"
        "    yield Component('oneoff', 'oneoff_calib:C', summary='One.', needs={'act.range'})\n"
    )
    done = zsq("plan", "py:zsq.testing.teachers:tiny", "--calib", "oneoff", "--plugin-file", "oneoff_calib.py")
    assert done.code == 0 and "oneoff_calib.py" in done.out


def test_a_log_is_part_of_a_plan_and_not_of_the_outcome(zsq: Any, tmp_path: Path) -> None:
    words = ("plan", "py:zsq.testing.teachers:tiny", "--quant", "uniform4", "--log", "jsonl:events.jsonl", "--json")
    plan = json.loads(zsq(*words).out)
    assert plan["recipe"]["log"] == [{"name": "jsonl", "ref": "events.jsonl"}]
    assert [row["options"] for row in plan["components"] if row["role"] == "log"] == [{"ref": "events.jsonl"}]
    assert not (tmp_path / "events.jsonl").exists()
    done = zsq("plan", "py:zsq.testing.teachers:tiny", "--log", "jsnl:events.jsonl")
    assert done.code == 2 and "did you mean 'jsonl'?" in done.err
