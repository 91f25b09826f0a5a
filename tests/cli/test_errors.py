"""Whatever the user gets wrong: one message of at most three lines on standard error, exit code 2, nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TINY = "py:zsq.testing.teachers:tiny"

MISTAKES = {
    "unknown component": (("plan", TINY, "--synth", "qqqqqq"), "synthesizer 'qqqqqq' not found"),
    "misspelt component": (("plan", TINY, "--quant", "unifrom4"), "did you mean 'uniform4'?"),
    "component of another role": (("plan", TINY, "--synth", "kd"), "'kd' is a loss"),
    "unknown option": (("plan", TINY, "--set", "tune.stesp=3"), "did you mean 'steps'?"),
    "option out of bounds": (("plan", TINY, "--set", "quant.weight_bits=1"), "must be at least 2"),
    "option of the wrong type": (("plan", TINY, "--set", "tune.steps=many"), "must be int"),
    "setting that no component reads": (("plan", TINY, "--set", "calib.nobody.batches=3"), "no component reads"),
    "setting without a value": (("plan", TINY, "--set", "tune.steps"), "sets nothing"),
    "unknown section": (("plan", TINY, "--set", "tunr.steps=3"), "did you mean 'tune'?"),
    "budget that is no time": (("plan", TINY, "--budget", "soon"), "budget 'soon'"),
    "missing recipe": (("plan", TINY, "--recipe", "none.yaml"), "cannot read the recipe"),
    "bad yaml": (("plan", TINY, "--recipe", "bad.yaml"), "not a YAML file"),
    "python tag in yaml": (("plan", TINY, "--recipe", "tag.yaml"), "refused"),
    "missing plugin file": (("plan", TINY, "--plugin-file", "none.py"), "plugin file 'none.py' not found"),
    "unknown command": (("rum",), "Did you mean 'run'?"),
    "unknown flag": (("run", "--synht", "noise"), "--synth"),
    "bad seed": (("plan", "--seed", "x"), "'--seed'"),
    "bad precision": (("plan", "--precision", "fp8"), "bf16"),
    "unknown name to show": (("show", "nois"), "did you mean 'noise'?"),
    "no plugin to uninstall": (("plugins", "uninstall", "nosuchplugin"), "no plugin 'nosuchplugin' is installed"),
    "zsq itself": (("plugins", "uninstall", "zsq"), "does not uninstall itself"),
    "no plugin to install": (("plugins", "install", "nosuchplugin"), "not in the registry"),
    "folder that is no plugin": (("plugins", "install", "./full"), "not a plugin's folder"),
    "nobody to explain": (("plugins", "why", "nosuchname"), "nobody provides"),
    "nothing to check": (("plugins", "check"), "nothing to check"),
    "unknown role": (("plugins", "new", "x", "--role", "sinth"), "synth"),
    "name with capitals": (("plugins", "new", "MyNoise", "--role", "synth"), "not a name"),
    "name that leaves the folder": (("plugins", "new", "../x", "--role", "synth"), "not a name"),
    "name that is taken": (("plugins", "new", "noise", "--role", "synth"), "is taken by zsq"),
    "name that is a keyword": (("plugins", "new", "lambda", "--role", "loss"), "word of Python"),
    "name of zsq's own package": (("plugins", "new", "cli", "--role", "synth"), "taken by the package zsq_cli"),
    "folder of another project": (("plugins", "new", "made", "--role", "synth"), "exists"),
    "eval of a folder that is no run": (("eval", "full"), "not a run"),
    "eval of nothing": (("eval", "nowhere"), "not a run"),
    "eval of a damaged report": (("eval", "damaged"), "cannot be read"),
    "output folder that is not a run": (("run", TINY, "--out", "full"), "exists and is not a run"),
}


@pytest.fixture
def mess(tmp_path: Path) -> Path:
    (tmp_path / "bad.yaml").write_text("quant: [uniform4\n")
    (tmp_path / "tag.yaml").write_text("quant: !!python/object/apply:os.system ['touch pwned']\n")
    for name in ("full", "zsq-made", "damaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "damaged" / "report.json").write_text('{"schema":')
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_message_and_nothing_left(mistake: str, zsq: Any, mess: Path) -> None:
    words, expected = MISTAKES[mistake]
    before = sorted(path.relative_to(mess) for path in mess.rglob("*"))
    done = zsq(*words)
    assert done.code == 2, done.out + done.err
    assert expected in done.err
    assert 1 <= len(done.err.splitlines()) <= 3, done.err
    assert "Traceback" not in done.err and not done.out
    assert sorted(path.relative_to(mess) for path in mess.rglob("*")) == before


def test_debug_shows_the_traceback_wherever_it_stands(zsq: Any) -> None:
    for words in (("--debug", "show", "nois"), ("show", "nois", "--debug")):
        done = zsq(*words)
        assert done.code == 2 and "Traceback" in done.err and "did you mean 'noise'?" in done.err


def test_an_interrupt_is_exit_130_without_a_traceback(zsq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zsq_cli.plugins.show_component", interrupt)
    done = zsq("show", "noise")
    assert done.code == 130 and "interrupted" in done.err and "Traceback" not in done.err


def test_a_fault_of_a_plugin_is_named_with_its_place(zsq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("zsq_cli.plugins.show_component", fail)
    done = zsq("show", "noise")
    assert done.code == 1 and "unexpected ZeroDivisionError: division by zero" in done.err and "test_errors.py:" in done.err
    assert len(done.err.splitlines()) == 3 and "--debug" in done.err
