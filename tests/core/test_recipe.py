"""Recipes: shorthand, round trips, flags and settings laid over a file, and everything that a file may get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsq._api.recipes import apply_flags, pin_warnings
from zsq._recipe import Recipe, RunOptions, apply_settings, dump_recipe, parse_budget, read_recipe
from zsq.errors import FileError, OptionError, ZsqError

WHOLE: dict[str, Any] = {
    "zsq": 1,
    "teacher": {"ref": "py:a:b", "shape": [3, 8, 8]},
    "synth": {"name": "noise", "std": 2.0},
    "quant": {"name": "uniform4", "first_bits": None},
    "calib": [{"name": "ema", "batches": 3}, {"name": "minmax"}],
    "loss": [{"name": "kd", "temperature": 4.0}, {"name": "ce", "weight": 0.5}],
    "tune": {"name": "finetune", "lr": 1e-05},
    "eval": [{"name": "npz", "ref": "some/where:else.npz"}],
    "export": [],
    "run": {"seed": 3},
    "pins": {"zsq": "0.1.0"},
}


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_recipe_is_read_back(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(WHOLE)
    assert recipe.to_dict() == WHOLE
    assert read_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_keys_are_dumped_in_a_fixed_order() -> None:
    backwards = Recipe.from_dict(dict(reversed(WHOLE.items())))
    assert dump_recipe(backwards) == dump_recipe(Recipe.from_dict(WHOLE))
    top = [line.split(":")[0] for line in dump_recipe(backwards).splitlines() if line[0] not in " -"]
    assert top == list(WHOLE)


def test_shorthand(tmp_path: Path) -> None:
    text = """
        teacher: zoo:small
        synth: noise
        quant: uniform4
        calib: [ema, minmax]
        loss: [kd, 0.5*ce, "-2 * bns"]
        eval: npz:a:b.npz
        tune: none
    """
    recipe = read_recipe(write(tmp_path, text))
    assert (recipe.teacher, recipe.synth, recipe.quant, recipe.tune) == (
        {"ref": "zoo:small"},
        {"name": "noise"},
        {"name": "uniform4"},
        {"name": "none"},
    )
    assert recipe.calib == [{"name": "ema"}, {"name": "minmax"}]
    assert recipe.loss == [{"name": "kd"}, {"name": "ce", "weight": 0.5}, {"name": "bns", "weight": -2.0}]
    assert recipe.eval == [{"name": "npz", "ref": "a:b.npz"}] and recipe.export is None


def test_left_open_differs_from_empty() -> None:
    assert Recipe.from_dict({"calib": None}).calib is None
    assert Recipe.from_dict({"calib": []}).calib == []


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("x: !!python/object/apply:os.system ['true']", FileError, "python/object/apply:os.system"),
        ("quant: !!python/name:os.system", FileError, "refused"),
        ("- a\n- b", FileError, "a mapping of sections, not a list"),
        ("just words", FileError, "not text"),
        ("quant: [unclosed", FileError, "not a YAML file"),
        ("a: b: c", FileError, "not a YAML file"),
        ("quant: 2020-99-99", FileError, "not a YAML file"),
        ("zsq: 2", FileError, "format 2"),
        ("qunat: uniform4", OptionError, "did you mean 'quant'"),
        ("3: x", OptionError, "sections: teacher"),
        ("quant: [uniform4]", OptionError, "holds a list"),
        ("quant: true", OptionError, "holds true"),
        ("quant: {name: 4}", OptionError, "must be text"),
        ("quant: {4: x}", OptionError, "keys are words"),
        ("calib: 7", OptionError, "not 7"),
        ("calib: [7]", OptionError, "holds 7"),
        ("calib: [{batches: 7}]", OptionError, "no name"),
        ("teacher: {ref: [a]}", OptionError, "'ref' in section 'teacher'"),
        ("run: fast", OptionError, "section 'run' holds text"),
        ("set: synth.std=2", OptionError, "section 'set' is a list"),
        ("set: [{synth: 2}]", OptionError, "section 'set' is a list"),
        ("[" * 20000, FileError, "not a YAML file"),
    ],
)
def test_what_a_file_may_get_wrong_is_one_short_message(text: str, kind: type[ZsqError], words: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as caught:
        read_recipe(write(tmp_path, text))
    message = str(caught.value)
    assert words in message and "recipe.yaml" in message and len(message.splitlines()) <= 3


def test_a_yaml_error_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="line 2"):
        read_recipe(write(tmp_path, "quant: uniform4\nrun: !!python/tuple [1]"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_recipe(tmp_path / "absent.yaml")
    binary = tmp_path / "recipe.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="not a YAML file"):
        read_recipe(binary)


def test_an_empty_file_leaves_everything_open(tmp_path: Path) -> None:
    assert read_recipe(write(tmp_path, "")) == Recipe()


def test_a_flag_replaces_a_component_but_keeps_the_options_of_the_same() -> None:
    recipe = Recipe.from_dict(WHOLE)
    assert apply_flags(recipe, synth="noise").synth == {"name": "noise", "std": 2.0}
    assert apply_flags(recipe, synth="other").synth == {"name": "other"}
    assert apply_flags(recipe, calib=["minmax", "ema"]).calib == [{"name": "minmax"}, {"name": "ema", "batches": 3}]
    assert apply_flags(recipe, loss=["2*kd"]).loss == [{"name": "kd", "temperature": 4.0, "weight": 2.0}]
    assert apply_flags(recipe, teacher="zoo:x").teacher == {"ref": "zoo:x"}
    assert apply_flags(recipe, seed=7, budget="5m").run == {"seed": 7, "budget": "5m"}


def test_flags_that_were_not_given_change_nothing() -> None:
    recipe = Recipe.from_dict(WHOLE)
    assert apply_flags(recipe, synth=None, calib=[], loss=(), seed=None, weights=None) == recipe


def test_weights_go_to_the_teacher() -> None:
    assert apply_flags(Recipe(), weights="w.safetensors").teacher == {"weights": "w.safetensors"}
    assert apply_flags(Recipe(), teacher="py:a:b", weights="w").teacher == {"ref": "py:a:b", "weights": "w"}


def test_settings_are_laid_over_and_the_last_one_counts() -> None:
    before = Recipe.from_dict(WHOLE)
    recipe = apply_settings(before, ["synth.std=3", "run.seed=1", "synth.std=4", "tune.steps=9", "teacher.classes=4"])
    assert recipe.synth == {"name": "noise", "std": "4"} and recipe.run == {"seed": "1"}
    assert recipe.teacher == {**WHOLE["teacher"], "classes": "4"}
    assert before.synth == {"name": "noise", "std": 2.0}, "the recipe before was changed"


def test_settings_of_chains_are_kept_in_the_file(tmp_path: Path) -> None:
    recipe = apply_settings(Recipe.from_dict(WHOLE), ["calib.ema.batches=7", "loss.kd.temperature=a=b", "synth.std=3"])
    assert recipe.to_dict()["set"] == ["calib.ema.batches=7", "loss.kd.temperature=a=b"]
    assert read_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_a_value_may_hold_equals_signs() -> None:
    assert apply_settings(Recipe(), ["teacher.weights=a=b"]).teacher == {"weights": "a=b"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tune.steps", "--set tune.steps=100"),
        ("foo.bar=1", "unknown section 'foo'"),
        ("tuen.steps=1", "did you mean 'tune'"),
        ("steps=1", "'steps' names no section"),
        ("tune=1", "'tune' names no option"),
        ("tune.=1", "names no option"),
        ("pins.zsq=1", "unknown section 'pins'"),
    ],
)
def test_a_setting_of_another_form(text: str, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        apply_settings(Recipe(), [text])
    assert words in str(caught.value) and len(str(caught.value).splitlines()) <= 3


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_budgets(hours: int, minutes: int, seconds: int) -> None:
    total = hours * 3600 + minutes * 60 + seconds
    assert parse_budget(f"{hours}h{minutes}m{seconds}s") == parse_budget(str(total)) == parse_budget(f" {total}s ") == total
    assert RunOptions(budget=f"{total}").budget_seconds == total


@pytest.mark.parametrize("text", ["", "0", "0m", "-5", "5 minutes", "m", "1m1h", "5d", "nan", "inf"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(OptionError, match="is not a time"):
        RunOptions.parse({"budget": text})


def test_run_options() -> None:
    assert RunOptions().budget_seconds is None
    assert RunOptions.parse({"budget": 300}).budget_seconds == 300
    assert RunOptions.parse({"device": "cuda:1"}).device == "cuda:1"
    with pytest.raises(OptionError, match="'device' is 'gpu'"):
        RunOptions.parse({"device": "gpu"})


def test_pins_that_differ_are_warnings() -> None:
    import numpy as np

    recipe = Recipe.from_dict({"pins": {"zsq": "0.0.1", "numpy": np.__version__, "zsq-nowhere": "2", "teacher": "abc"}})
    assert [line.partition(", ")[0] for line in pin_warnings(recipe)] == [
        "the recipe was made with zsq 0.0.1",
        "the recipe was made with zsq-nowhere 2",
    ]
    assert pin_warnings(recipe)[1].endswith("not installed")
