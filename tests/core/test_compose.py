"""Composition: defaults, suggestions and their precedence, settings, and the chains that are refused with the missing need named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from zsq._api.recipes import apply_flags
from zsq._compose import DEFAULTS, choose_evaluator, compose
from zsq._manager import Manager
from zsq._plan import Plan, pins
from zsq._recipe import Recipe, apply_settings, dump_recipe
from zsq.errors import ComponentError, OptionError, PlanError, ZsqError
from zsq.testing import FakeDist

TEACHER = "py:zsq.testing.teachers:tiny"

#: Components with every kind of need, offer and suggestion.
LAB = """
from dataclasses import dataclass
from zsq import Component, Options, hookimpl, opt

@dataclass(frozen=True, kw_only=True)
class LabOptions(Options):
    power: int = opt(1, "A number.", ge=0)
    level: int = opt(0, "Another.", ge=0)

def lab(name, **named):
    return Component(name, "lab_code:Nothing", LabOptions, **named)

@hookimpl
def zsq_synthesizers():
    yield lab("targets", needs={"teacher.output"}, provides={"targets"}, presets={"targets9": {"power": 9}})
    yield lab("pooled", provides={"pool"})
    yield lab("poolthief", provides={"pool"}, needs={"student.output"})
    yield lab("pushy", suggests={
        "quant": {"name": "uniform4", "first_bits": 8}, "calib": ["gone", "ema"], "loss": ["0.5*kd", "bns"],
        "tune": {"steps": 7, "lr": 0.5}, "run": {"batch_size": 16}})
    yield lab("lost", suggests={"calib": ["gone"], "tune": "gone", "loss": [{"name": "kd", "nonsense": 1}]})

@hookimpl
def zsq_quantizers():
    yield lab("wantspool", needs={"pool"}, provides={"act.range"})
    yield lab("rangeless")
    yield lab("meek", provides={"act.range", "rounding"}, suggests={
        "calib": ["minmax"], "tune": {"steps": 9, "momentum": 0.1}, "run": {"seed": 5}})

@hookimpl
def zsq_calibrators():
    yield lab("advises", suggests={"loss": ["bns", "kd"], "tune": {"steps": 11, "nesterov": False}})

@hookimpl
def zsq_tuners():
    yield lab("rounds", needs={"rounding", "student.features"})
"""


@pytest.fixture
def manager(fake_dist: Callable[..., FakeDist]) -> Manager:
    return Manager.discover(distributions=[fake_dist("zsq-lab", LAB).distribution])


def plan(manager: Manager, *settings: str, **sections: Any) -> Plan:
    return compose(apply_settings(Recipe.from_dict({"teacher": TEACHER, **sections}), settings), manager)


def refusal(kind: type[ZsqError], manager: Manager, *settings: str, **sections: Any) -> str:
    with pytest.raises(kind) as caught:
        plan(manager, *settings, **sections)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    return message


def names(choices: Any) -> list[str]:
    return [choice.name for choice in choices]


def test_a_recipe_that_says_nothing_gets_the_defaults(manager: Manager) -> None:
    chosen = plan(manager)
    assert (chosen.synth.name, chosen.quant.name, chosen.tuner.name) == ("noise", "uniform8", "finetune")
    assert names(chosen.calibrators) == ["mean-image-max"] and names(chosen.losses) == ["kd"]
    assert names(chosen.evaluators) == ["agreement"] and names(chosen.exporters) == ["safetensors"]
    assert chosen.default_eval and chosen.notes == () and chosen.ref == "zsq.testing.teachers:tiny"
    assert chosen.quant.options.to_dict()["act_bits"] == 8


def test_without_a_teacher_the_embedded_one_is_taken() -> None:
    with pytest.raises(ComponentError, match=f"teacher source '{DEFAULTS['teacher'].partition(':')[0]}' not found"):
        compose(Recipe(), Manager.discover(distributions=[]))


def test_an_evaluation_that_was_asked_for_is_no_default(manager: Manager) -> None:
    chosen = plan(manager, eval=["npz:a/b:c.npz"])
    assert not chosen.default_eval and chosen.evaluators[0].component.name == "top1"
    assert chosen.evaluators[0].settings == {"ref": "a/b:c.npz"}


def test_one_evaluator_twice_is_refused(manager: Manager) -> None:
    with pytest.raises(PlanError, match="'top1' is chosen twice") as caught:
        plan(manager, eval=["npz:x", "agreement", "top1:y"])
    assert caught.value.hint == "make two runs"


def test_choose_evaluator(manager: Manager) -> None:
    choice = choose_evaluator("npz:some/where.npz", manager)
    assert (choice.name, choice.component.name) == ("npz", "top1")
    assert choice.options.to_dict()["ref"] == "some/where.npz" and choice.options.to_dict()["format"] == "npz"


def test_precedence_of_values(manager: Manager) -> None:
    def power(*settings: str, **entry: Any) -> int:
        value: int = plan(manager, *settings, synth={"name": "targets9", **entry}).synth.options.to_dict()["power"]
        return value

    assert plan(manager, synth="targets").synth.options.to_dict()["power"] == 1, "field default"
    assert power() == 9, "preset over default"
    assert power(power=4) == 4, "recipe over preset"
    assert power("synth.power=5", power=4) == 5, "--set over recipe"


def test_suggestions_fill_what_is_open(manager: Manager) -> None:
    chosen = plan(manager, synth="pushy")
    assert chosen.quant.name == "uniform4" and chosen.quant.options.to_dict()["first_bits"] == 8
    assert names(chosen.calibrators) == ["ema"] and [(c.name, c.weight) for c in chosen.losses] == [("kd", 0.5), ("bns", 1.0)]
    assert chosen.tuner.settings == {"steps": 7, "lr": 0.5} and chosen.run.batch_size == 16
    assert len(chosen.notes) == 1 and "suggests calib 'gone', skipped" in chosen.notes[0]


def test_suggestions_never_touch_what_the_user_said(manager: Manager) -> None:
    sections = {"quant": "uniform3", "calib": [], "loss": "kd", "tune": {"name": "finetune", "lr": 0.25}, "run": {"batch_size": 4}}
    chosen = plan(manager, "tune.steps=3", synth="pushy", **sections)
    assert chosen.quant.name == "uniform3" and chosen.quant.options.to_dict()["first_bits"] is None
    assert chosen.calibrators == () and names(chosen.losses) == ["kd"] and chosen.losses[0].weight == 1
    assert chosen.tuner.settings == {"lr": 0.25, "steps": 3} and chosen.run.batch_size == 4


def test_options_are_suggested_for_the_same_component_only(manager: Manager) -> None:
    assert plan(manager, synth="pushy", tune="none").tuner.settings == {}
    assert plan(manager, synth="pushy", tune="zsq/finetune").tuner.settings == {"steps": 7, "lr": 0.5}


def test_the_synthesizer_is_heard_before_the_quantizer_and_that_before_the_calibrators(manager: Manager) -> None:
    three = plan(manager, synth="pushy", quant="meek", calib="advises")
    assert three.tuner.settings == {"steps": 7, "lr": 0.5, "momentum": 0.1, "nesterov": False}
    assert names(three.losses) == ["kd", "bns"] and three.run.seed == 5 and three.run.batch_size == 16
    two = plan(manager, quant="meek", calib="advises")
    assert two.tuner.settings == {"steps": 9, "momentum": 0.1, "nesterov": False} and names(two.losses) == ["bns", "kd"]
    assert names(plan(manager, quant="meek").calibrators) == ["minmax"]


def test_a_suggestion_that_cannot_be_had_is_skipped_with_a_note(manager: Manager) -> None:
    chosen = plan(manager, synth="lost")
    assert names(chosen.calibrators) == ["mean-image-max"] and chosen.tuner.name == "finetune" and names(chosen.losses) == ["kd"]
    assert [note.partition(", skipped")[0] for note in chosen.notes] == [
        "synthesizer 'lost' suggests calib 'gone'",
        "synthesizer 'lost' suggests loss 'kd'",
        "synthesizer 'lost' suggests tune 'gone'",
    ]


def test_settings_reach_chains_however_they_came_about(manager: Manager) -> None:
    assert plan(manager, "calib.batches=3").calibrators[0].settings == {"batches": 3}, "the default chain"
    assert plan(manager, "calib.ema.decay=0.5", synth="pushy").calibrators[0].settings == {"decay": 0.5}, "a suggested chain"
    chosen = plan(manager, "calib.minmax.batches=2", calib=["ema", "zsq/minmax"])
    assert [c.settings for c in chosen.calibrators] == [{}, {"batches": 2}]
    chosen = plan(manager, "loss.kd.temperature=2", "loss.ce.weight=-0.5", loss=["kd", "ce"], synth="targets")
    assert [(c.weight, dict(c.settings)) for c in chosen.losses] == [(1.0, {"temperature": 2.0}), (-0.5, {})]
    assert plan(manager, "eval.npz.limit=5", eval="npz:x").evaluators[0].settings == {"ref": "x", "limit": 5}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("calib.aac.images=1", "no component reads the setting 'calib.aac.images'"),
        ("calib.minmx.batches=1", "did you mean 'minmax'"),
        ("calib.batches=1", "write --set calib.minmax.batches=1"),
        ("calib.ema.name=x", "no component reads"),
        ("calib.ema.bathces=1", "did you mean 'batches'"),
        ("calib.ema.batches=0", "must be at least 1"),
        ("calib.ema.batches=few", "must be int"),
        ("loss.kd.weight=heavy", "is not a number"),
        ("loss.kd.weight=nan", "not finite"),
        ("synth.power=1", "unknown option 'power'"),
        ("quant.uniform4.first_bits=8", "write --set quant.first_bits=VALUE"),
        ("tune.steps=0", "must be at least 1"),
        ("run.sede=1", "did you mean 'seed'"),
        ("run.budget=soon", "is not a time"),
        ("teacher.clases=3", "did you mean 'classes'"),
        ("teacher.name=x", "unknown option 'name'"),
    ],
)
def test_a_setting_that_nobody_reads_or_takes(setting: str, words: str, manager: Manager) -> None:
    assert words in refusal(OptionError, manager, setting, calib=["minmax", "ema"], loss=["kd"])


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"quant": "unifrom4"}, "did you mean 'uniform4'"),
        ({"calib": ["mnmax"]}, "did you mean 'minmax'"),
        ({"teacher": "resnet20"}, "a teacher is SOURCE:NAME, e.g. zoo:resnet20"),
        ({"teacher": "pi:module:factory"}, "teacher source 'pi' not found\nthere are: memory, py"),
        ({"export": ["onyx"]}, "exporter 'onyx' not found"),
    ],
)
def test_components_that_do_not_exist(sections: dict[str, Any], words: str, manager: Manager) -> None:
    assert words in refusal(ComponentError, manager, **sections)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"loss": "ce"}, "loss 'ce' needs targets (batches with targets)"),
        ({"quant": "rangeless"}, "calibrator 'mean-image-max' needs act.range (activation points with a settable range)"),
        ({"quant": "wantspool"}, "quantizer 'wantspool' needs pool (a pool of images made before quantization)"),
        ({"tune": "rounds"}, "tuner 'rounds' needs rounding (weight points with learnable rounding)"),
        ({"synth": "poolthief", "quant": "wantspool"}, "quantizer 'wantspool' needs pool"),
    ],
)
def test_a_missing_need_is_named_as_word_and_in_words_with_who_gives_it(sections: dict[str, Any], words: str, manager: Manager) -> None:
    message = refusal(PlanError, manager, **sections)
    assert message.startswith(words)
    givers = {"ce": "provided by: --synth targets", "rangeless": "--quant uniform", "rounds": "--quant meek"}
    assert next((hint for name, hint in givers.items() if name in sections.values()), "") in message.splitlines()[-1]


@pytest.mark.parametrize("weight", [None, True, "x", [1]])
def test_a_weight_is_a_number(weight: Any, manager: Manager) -> None:
    assert "is not a number" in refusal(OptionError, manager, loss=[{"name": "kd", "weight": weight}])


def test_a_need_that_nobody_installed_gives() -> None:
    message = refusal(PlanError, Manager.discover(third_party=False), loss=["kd", "ce"])
    assert message.endswith("no installed component provides it")


def test_a_tuner_wants_a_loss_that_reads_the_student(manager: Manager) -> None:
    message = refusal(PlanError, manager, loss="bns")
    assert message.startswith("tuner 'finetune' needs student.output: a loss that reads the student's output; 'bns' reads teacher.bn only")
    assert "no loss is chosen" in refusal(PlanError, manager, loss=[])
    assert names(plan(manager, loss=["bns", "kd"]).losses) == ["bns", "kd"]


def test_without_tuning_losses_are_not_run_and_not_checked(manager: Manager) -> None:
    assert plan(manager, loss=["ce"], tune="none").forwards()["tune"] == {"teacher": 0, "student": 0}


def test_what_is_offered_is_accepted(manager: Manager) -> None:
    assert plan(manager, synth="targets", loss=["kd", "ce"]).losses[1].name == "ce"
    assert plan(manager, synth="pooled", quant="wantspool").quant.name == "wantspool"
    assert plan(manager, quant="meek", tune="rounds").tuner.name == "rounds"


def test_forwards_follow_from_the_needs(manager: Manager) -> None:
    assert plan(manager).forwards() == {"synth": {"teacher": 0, "student": 0}, "tune": {"teacher": 1, "student": 1}}
    only_student = plan(manager, synth="targets", loss="ce").forwards()
    assert only_student == {"synth": {"teacher": 1, "student": 0}, "tune": {"teacher": 0, "student": 1}}


def test_needs_are_the_union_of_what_a_step_reads(manager: Manager) -> None:
    chosen = plan(manager, synth="targets", loss=["kd", "ce"])
    assert chosen.needs == {"synth": {"teacher.output"}, "tune": {"images", "targets", "teacher.output", "student.output"}}
    assert plan(manager, loss=["kd"], tune="none").needs["tune"] == frozenset()
    assert chosen.describe()["needs"]["tune"] == ["images", "student.output", "targets", "teacher.output"]


def test_describe_is_plain(manager: Manager) -> None:
    row = plan(manager, synth="pushy").describe()
    assert json.loads(json.dumps(row)) == row
    assert row["teacher"] == TEACHER and row["recipe"]["quant"] == {"name": "uniform4", "first_bits": 8}
    quant = next(c for c in row["components"] if c["role"] == "quant")
    assert (quant["name"], quant["component"], quant["provider"]) == ("uniform4", "uniform", "zsq 0.1.0")
    assert quant["provides"] == ["act.range", "graph", "weights.live"]


def test_the_resolved_recipe_gives_the_same_plan_again(manager: Manager) -> None:
    first = plan(manager, "calib.decay=0.5", "run.seed=4", "teacher.classes=4", synth="pushy")
    second = compose(first.recipe, manager)
    assert (second.choices, second.run, second.default_eval) == (first.choices, first.run, True)
    assert dump_recipe(second.recipe) == dump_recipe(first.recipe)
    asked = plan(manager, eval=["npz:x", "agreement"], loss=["0.5*kd"])
    assert compose(asked.recipe, manager).choices == asked.choices


def test_settings_of_the_default_evaluation_survive_in_the_recipe(manager: Manager) -> None:
    first = plan(manager, "eval.images=32")
    again = compose(Recipe.from_dict(first.recipe.to_dict()), manager)
    assert again.default_eval and again.evaluators == first.evaluators and again.evaluators[0].settings == {"images": 32}


def test_composing_leaves_the_recipe_alone(manager: Manager) -> None:
    recipe = Recipe.from_dict({"teacher": TEACHER, "synth": "pushy", "calib": ["ema"]})
    before = dump_recipe(recipe)
    compose(apply_settings(recipe, ["calib.ema.decay=0.5"]), manager)
    assert dump_recipe(recipe) == before


def test_flags_compose(manager: Manager) -> None:
    chosen = compose(apply_flags(Recipe(), teacher=TEACHER, weights="w.st", quant="uniform4", loss=["2*kd"], seed=3), manager)
    assert chosen.teacher.options.to_dict()["weights"] == "w.st" and chosen.losses[0].weight == 2 and chosen.run.seed == 3


def test_pins_name_everything_used_and_nothing_else(manager: Manager) -> None:
    assert list(pins(plan(manager))) == ["zsq", "torch", "numpy", "python"]
    assert pins(plan(manager, synth="targets"))["zsq-lab"] == "0.1.0"


def test_composing_imports_no_implementation(manager: Manager) -> None:
    import sys

    plan(manager, synth="pushy", quant="meek", calib="advises")
    assert "lab_code" not in sys.modules
